"""The study of what solvers cost: its schema, and how it is stored.

One JSON file a machine, ``<results>/solvers/<machine id>.json``. Field by field documentation:
``results/README.md``; a test holds the two together. Imports no torch, so that the report can be
made on a machine without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from bench.store.records import set_aside, write_atomically

SCHEMA_VERSION = 1
FOLDER = "solvers"


class Timing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One solver on one chain."""

    solver: Literal["optimal", "milp"]
    blocks: int
    slots: int | None
    default_slots: bool
    solve_s: list[float]
    gap_fraction: float | None


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All timings of one machine."""

    schema_version: int = SCHEMA_VERSION
    seed: int
    modes: int
    budget_fraction: float
    timings: list[Timing]
    compile_s: float
    torch_version: str
    python_version: str
    numba_version: str
    highspy_version: str
    machine_id: str
    machine: dict[str, str | int | float]
    commit: str | None
    dirty: bool | None
    started_at_utc: str
    duration_s: float


def encode(study: Study) -> bytes:
    """JSON, two-space indented, keys in the order of the schema, newline at the end."""
    return msgspec.json.format(msgspec.json.encode(study), indent=2) + b"\n"


def decode(data: bytes) -> Study:
    """Parse one study strictly.

    Raises:
        ValueError: truncated, not a study, an unknown field, or another schema version.
    """
    try:
        study = msgspec.json.decode(data, type=Study)
    except msgspec.DecodeError as error:  # ValidationError is a subclass
        raise ValueError(f"not a study of solvers, schema {SCHEMA_VERSION}: {error}") from error
    if study.schema_version != SCHEMA_VERSION:
        raise ValueError(
            f"schema version {study.schema_version}; this program reads {SCHEMA_VERSION}"
        )
    return study


def write(study: Study, results: Path) -> Path:
    """Store a study atomically, in place of the machine's last one; returns where."""
    path = results / FOLDER / f"{study.machine_id}.json"
    write_atomically(path, encode(study))
    return path


def paths(results: Path) -> list[Path]:
    """Where studies are, sorted."""
    return sorted((results / FOLDER).glob("*.json"))


def read_all(results: Path) -> Iterator[Study]:
    """Every study, in path order; a file that cannot be trusted is set aside with a warning."""
    for path in paths(results):
        try:
            yield decode(path.read_bytes())
        except ValueError as error:
            set_aside(path, str(error))
