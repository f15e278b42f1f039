"""The workloads, found by looking: a module here that defines ``WORKLOADS`` adds its own."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from bench.workloads import live, sources
from bench.workloads.base import Workload

__all__ = ["Workload", "available", "get"]


def available() -> tuple[str, ...]:
    """The names of all workloads, sorted."""
    return tuple(sorted(_registry()))


def get(name: str, /, **options: Any) -> Workload:
    """The workload of that name, with some options changed; see `bench.workloads.sources`, too.

    Raises:
        ValueError: no such workload, no such option, or an impossible value.
    """
    if (asked := live.known(name)) is not None:
        return asked.with_options(**options)
    if sources.is_source(name):
        return sources.get(name, options)
    workload = _registry().get(name)
    if workload is None:
        raise ValueError(_unknown(name))
    return workload.with_options(**options)


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, available(), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if name.endswith(".py"):
        hint = f" Of a file, name the function, too: {name}:build."
    return f"no workload {name!r}.{hint} There are {', '.join(available())}"


@functools.cache
def _registry() -> dict[str, Workload]:
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    return collect(importlib.import_module(f"{__name__}.{name}") for name in names)


def collect(modules: Iterable[ModuleType]) -> dict[str, Workload]:
    """The workloads that modules define, by name.

    Raises:
        ValueError: two of them have one name.
    """
    by_name: dict[str, Workload] = {}
    owners: dict[str, str] = {}
    for module in modules:
        for workload in getattr(module, "WORKLOADS", ()):
            if workload.name in by_name:
                both = f"{owners[workload.name]} and {module.__name__}"
                raise ValueError(f"two workloads are named {workload.name!r}: in {both}")
            by_name[workload.name] = workload
            owners[workload.name] = module.__name__
    return by_name
