"""Records of one kind as strict JSON files: written atomically, refused or migrated when read.

One file a value. Writing goes through a temporary file, fsync and a rename, so a killed run leaves
either the whole file or what was there before. Reading refuses what it does not understand: a
truncated or foreign file is *set aside* under a name that says so, and reported, never trusted. A
file of an older schema is migrated in memory; one of a newer schema is refused and left alone.

A file ends in a checksum over its values, whatever their order and layout. Files from before there
was one have none, and are read.

This module imports no torch, so that the report can be made on a machine without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from bench.store import ranges

RESULTS = Path("results")
CHECKSUM = "checksum"
_PROBE_BYTES = 1 << 16  # more than a record has

Fields = dict[str, Any]
Migration = Callable[[Fields], Fields]


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where, when and with what something was measured; every stored kind begins with it."""

    schema_version: int
    seed: int = 0
    torch_version: str
    python_version: str
    machine_id: str
    machine: dict[str, str | int | float]
    commit: str | None
    dirty: bool | None
    started_at_utc: str
    duration_s: float | None = None


Kind = TypeVar("Kind", bound=Provenance)


class _Version(msgspec.Struct):
    """The one field that every version has."""

    schema_version: int


class UnknownVersionError(ValueError):
    """A file of a schema that this program does not know: another program's, and not damaged."""


def _anything(value: Any) -> None:
    del value


@dataclasses.dataclass(frozen=True)
class JsonStore(Generic[Kind]):
    """Where one kind of value is stored, and how it is read.

    Attributes:
        kind: its type.
        noun: what a reader calls it: ``record``.
        folder: below the results.
        name: a value's path in that folder.
        version: of the schema that is written.
        migrations: by version, how to make fields of the next version from fields of that one.
        check: raises ValueError for a value that the schema allows and that makes no sense.
    """

    kind: type[Kind]
    noun: str
    folder: str
    name: Callable[[Kind], str]
    version: int
    migrations: Mapping[int, Migration] = dataclasses.field(default_factory=dict)
    check: Callable[[Kind], None] = _anything

    def encode(self, value: Kind) -> bytes:
        """JSON, two-space indented, keys in the order of the schema, newline at the end."""
        return msgspec.json.format(_sealed(value), indent=2) + b"\n"

    def encode_line(self, value: Kind) -> str:
        """The value on one line, for ``--format json``."""
        return _sealed(value).decode()

    def decode(self, data: bytes) -> Kind:
        """Parse one value strictly; of an older schema, migrate it.

        Raises:
            UnknownVersionError: a schema version that this program cannot read.
            ValueError: truncated, of another kind, an unknown field, or a value without sense.
        """
        try:
            value = self._typed(data)
            ranges.check(value)
        except UnknownVersionError:
            raise
        except (ValueError, RecursionError, OverflowError) as error:  # msgspec's are ValueErrors
            raise ValueError(f"not a {self.noun} of schema {self.version}: {error}") from error
        self.check(value)
        return value

    def _typed(self, data: bytes) -> Kind:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version < 1:
            raise ValueError(f"schema version {version}")
        if version != self.version and version not in self.migrations:
            known = "".join(f"{older}, " for older in sorted(self.migrations))
            raise UnknownVersionError(
                f"schema version {version}; this program reads {known}{self.version}"
            )
        fields = msgspec.json.decode(data)
        given = fields.pop(CHECKSUM, None)
        value = msgspec.convert(self._migrated(fields, version), self.kind)
        if given is not None and given != digest(fields):
            raise ValueError("its checksum is that of other values")
        return value

    def _migrated(self, fields: Fields, version: int) -> Fields:
        for older in range(version, self.version):
            fields = self.migrations[older](fields) | {"schema_version": older + 1}
        return fields

    def path_of(self, value: Kind, results: Path = RESULTS) -> Path:
        """Where a value is stored."""
        return results / self.folder / self.name(value)

    def write(self, value: Kind, results: Path = RESULTS) -> Path:
        """Store one value atomically, in place of what is there; returns where."""
        path = self.path_of(value, results)
        write_atomically(path, self.encode(value))
        return path

    def paths(self, results: Path = RESULTS) -> list[Path]:
        """Where values are, in order."""
        found = (results / self.folder).rglob("*.json")
        return sorted(path for path in found if path.is_file())

    def read(self, path: Path) -> Kind | None:
        """The value at ``path``, or ``None`` after setting the file aside with a warning.

        Raises:
            UnknownVersionError: it is another program's; it stays where it is.
        """
        try:
            return self.decode(path.read_bytes())
        except UnknownVersionError as error:
            raise UnknownVersionError(f"{path}: {error}") from error
        except ValueError as error:
            set_aside(path, str(error))
            return None

    def read_all(self, results: Path = RESULTS) -> Iterator[Kind]:
        """Every value, in path order."""
        for path in self.paths(results):
            value = self.read(path)
            if value is not None:
                yield value


def _sealed(value: msgspec.Struct) -> bytes:
    """A value as JSON, its checksum as the last key."""
    text = msgspec.json.encode(value)
    fields = msgspec.json.decode(text)
    return text[:-1] + f',"{CHECKSUM}":"{digest(fields)}"}}'.encode()


def digest(values: Any) -> str:
    """Of plain values, whatever the order of keys: SHA-256 of their compact JSON."""
    return hashlib.sha256(msgspec.json.encode(values, order="sorted")).hexdigest()


def check_writable(results: Path) -> None:
    """Store something and take it away again, before hours are spent on what cannot be stored.

    Raises:
        ValueError: it cannot be; says why.
    """
    probe = results / f".writable-{os.getpid()}"
    made = [folder for folder in (results, *results.parents) if not folder.exists()]
    try:
        write_atomically(probe, bytes(_PROBE_BYTES))
        probe.unlink()
    except OSError as error:
        raise ValueError(f"nothing can be stored in {results}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # something is in there already
            for folder in made:
                folder.rmdir()


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds all of it or what it held before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)  # mkstemp's 0600 would keep a shared results folder unreadable
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def set_aside(path: Path, reason: str) -> Path:
    """Rename an untrustworthy file to ``<name>.set-aside`` and warn; nothing is deleted."""
    target = path.with_name(path.name + ".set-aside")
    count = 1
    while target.exists():
        count += 1
        target = path.with_name(f"{path.name}.set-aside-{count}")
    path.rename(target)
    warnings.warn(f"{path}: {reason}; set aside as {target.name}", UserWarning, stacklevel=2)
    return target
