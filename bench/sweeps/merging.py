"""Folders of results made into one. A file is taken whole, or not at all; none is changed.

A file is one value of one machine, under that machine's name, so no file and no folder mixes the
seconds of two. All files are read before the first is written: what cannot be read is refused, and
then nothing has changed.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import store
from bench.store.json_store import JsonStore, Provenance, write_atomically


@dataclasses.dataclass(frozen=True)
class Found:
    """A stored file that can be read.

    Attributes:
        path: where it is.
        data: its bytes.
        started: when its measurement did.
    """

    path: Path
    data: bytes
    started: datetime

    @property
    def age(self) -> tuple[datetime, bytes]:
        """What decides between two: the newer; of one moment, always the same one."""
        return self.started, self.data


@dataclasses.dataclass(frozen=True)
class Merged:
    """How many files came into the folder, took the place of older ones, or left it as it was."""

    new: int
    newer: int
    kept: int


def stores() -> dict[str, JsonStore[Any]]:
    """Every kind of value that is stored, by its folder."""
    modules = pkgutil.iter_modules(store.__path__, f"{store.__name__}.")
    members = (vars(importlib.import_module(module.name)) for module in modules)
    kinds = (value for names in members for value in names.values())
    return {one.folder: one for one in kinds if isinstance(one, JsonStore)}


def merge(sources: Sequence[Path], into: Path) -> Merged:
    """Bring every stored value of ``sources`` into one folder; run twice, the same.

    Args:
        sources: folders of results, as ``results`` is one; they stay as they are.
        into: such a folder, or one that is made.

    Raises:
        ValueError: a file that cannot be read or is of a newer schema, a folder that holds nothing,
            or no room; names it.
    """
    there = inventory(into) if into.exists() else {}
    best = dict(there)
    for source in sources:
        files = inventory(_checked(source, into))
        if not files:
            raise ValueError(f"{source} holds nothing to merge; name the folder that has raw/")
        for name, found in files.items():
            best[name] = max(best.get(name, found), found, key=lambda one: one.age)
    changed = {name: one for name, one in best.items() if one is not there.get(name)}
    _write(changed, into)
    newer = len(changed.keys() & there.keys())
    return Merged(new=len(changed) - newer, newer=newer, kept=len(best) - len(changed))


def inventory(results: Path) -> dict[str, Found]:
    """Every stored value below a folder, by its path there.

    Raises:
        ValueError: one that cannot be read, or that is not where its own fields put it.
    """
    kinds = stores()
    return {
        path.relative_to(results).as_posix(): _read(path, kinds[folder], results / above)
        for path, above, folder in _files(results, kinds)
    }


def _files(results: Path, kinds: Mapping[str, JsonStore[Any]]) -> Iterator[tuple[Path, Path, str]]:
    """Stored files, with what is above their kind's folder: ``peers`` of ``peers/raw/…``."""
    for path in sorted(results.rglob("*.json")):
        *folders, _ = path.relative_to(results).parts
        place = next((i for i, folder in enumerate(folders) if folder in kinds), None)
        if place is not None and path.is_file():
            yield path, Path(*folders[:place]), folders[place]


def _read(path: Path, kind: JsonStore[Any], above: Path) -> Found:
    data = path.read_bytes()
    try:
        value: Provenance = kind.decode(data)
        started = datetime.fromisoformat(value.started_at_utc)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; nothing is merged") from error
    own = kind.path_of(value, above)
    if own != path:
        raise ValueError(f"{path} belongs at {own}, by what it says; nothing is merged")
    return Found(path, data, started if started.tzinfo else started.replace(tzinfo=UTC))


def _checked(source: Path, into: Path) -> Path:
    if not source.is_dir():
        raise ValueError(f"{source} is no folder")
    if into.exists() and source.samefile(into):
        raise ValueError(f"{source} is what it would be merged into")
    return source


def _write(files: Mapping[str, Found], into: Path) -> None:
    for count, (name, found) in enumerate(sorted(files.items())):
        try:
            write_atomically(into / name, found.data)
        except OSError as error:
            raise ValueError(
                f"{into / name}: {error.strerror}; {count} of {len(files)} files are merged, each "
                "of them whole, and the same command does the rest"
            ) from error
