"""Strategies of other distributions, by entry point: known by name, loaded when they are chosen."""

from __future__ import annotations

import functools
import importlib.metadata
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint

from strategies.contract.strategy import Strategy

ENTRY_POINTS = "ckpt_bench.strategies"


def declared(taken: Mapping[str, type[Strategy]]) -> dict[str, EntryPoint]:
    """What installed distributions declare, by the strategy's name; no code of theirs runs.

    Args:
        taken: strategies that are here already; an entry point may name one of these classes.

    Raises:
        ValueError: a name that is taken, or that two distributions declare.
    """
    by_name: dict[str, EntryPoint] = {}
    for entry in _entries(tuple(sys.path)):
        here = taken.get(entry.name)
        if here is not None and entry.value == f"{here.__module__}:{here.__qualname__}":
            continue
        other = by_name.setdefault(entry.name, entry)
        if here is not None or other.value != entry.value:
            holder = here.__module__ if here is not None else origin(other)
            raise ValueError(
                f"two strategies are named {entry.name!r}: {holder} and {origin(entry)}"
            )
    return by_name


@functools.lru_cache(maxsize=8)
def _entries(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Of the distributions on a search path; to read them all takes as long as a small step."""
    del path
    return tuple(importlib.metadata.entry_points(group=ENTRY_POINTS))


def origin(entry: EntryPoint) -> str:
    """``its-distribution 1.2``."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def load(entry: EntryPoint) -> type[Strategy]:
    """Import what an entry point names.

    Raises:
        ValueError: it cannot be imported, is no strategy, or bears another name.
    """
    subject = f"strategy {entry.name!r} of {origin(entry)}"
    try:
        cls = entry.load()
    except Exception as error:  # it is someone else's code, and whatever it raises is its own
        said = " ".join(str(error).split())
        raise ValueError(f"{subject} cannot be loaded: {type(error).__name__}: {said}") from error
    if not (isinstance(cls, type) and issubclass(cls, Strategy)):
        raise ValueError(f"{subject} ({entry.value}) is not a Strategy class")  # noqa: TRY004 - input
    if cls.name() != entry.name:
        raise ValueError(f"{subject} calls itself {cls.name()!r}; an entry point bears its name")
    return cls
