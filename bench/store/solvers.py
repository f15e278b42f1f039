"""The study of what solvers cost: one JSON file a machine.

Field by field documentation: ``results/README.md``; a test holds the two together. Imports no
torch, so that the report can be made on a machine without it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bench.store.json_store import JsonStore, Provenance

SCHEMA_VERSION = 1


class Timing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One solver on one chain."""

    solver: Literal["optimal", "milp"]
    blocks: int
    slots: int | None
    default_slots: bool
    solve_s: list[float]
    gap_fraction: float | None


class Study(Provenance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All timings of one machine."""

    schema_version: int = SCHEMA_VERSION
    modes: int
    budget_fraction: float
    timings: list[Timing]
    compile_s: float
    numba_version: str
    highspy_version: str


STORE = JsonStore(
    kind=Study,
    noun="study of solvers",
    folder="solvers",
    name=lambda study: f"{study.machine_id}.json",
    version=SCHEMA_VERSION,
)
encode, decode = STORE.encode, STORE.decode
write, paths, read_all = STORE.write, STORE.paths, STORE.read_all
