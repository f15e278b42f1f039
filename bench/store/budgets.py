"""The budget study: everything measured about one workload at a number of budgets.

One strict JSON file a workload and machine, beside the records, under the same rules: written
atomically, set aside when it is torn, refused when it is foreign. Raw bytes and seconds; ratios,
intervals and verdicts are derived by `bench.report.budgets`.

This module imports no torch, so that the report can be made on a machine without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.store.records import RESULTS, set_aside, write_atomically

SCHEMA_VERSION = 1
FOLDER = "budgets"


class Contender(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One schedule, and what it was measured to cost."""

    plan: str
    heuristics: list[str] = []
    predicted_peak_bytes: int
    predicted_step_s: float
    peak_allocated_bytes: int
    grads_bitwise_equal: bool
    step_s: list[float] = []


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One budget, and which contender `optimal` chose for it."""

    budget_bytes: int
    contender: int
    bound_step_s: float
    slot_bytes: int


class BlockTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Measured times of one block, as the plans were made from them."""

    forward_s: float
    backward_s: float
    last_recompute_s: float
    mode_recompute_s: dict[str, float] = {}


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One workload on one machine. The first contender is `none`.

    Field by field documentation: ``results/README.md``; a test holds the two together.
    """

    schema_version: int = SCHEMA_VERSION
    # What was run.
    workload: str
    workload_options: dict[str, Any]
    device: str
    device_name: str
    precision: str
    optimizer: str
    # What was found.
    blocks: list[BlockTimes]
    fixed_s: float
    contenders: list[Contender]
    budgets: list[Budget]
    # Where, when, with what.
    profile_rounds: int
    rounds: int
    warmup: int
    seed: int
    torch_version: str
    python_version: str
    threads: int
    machine_id: str
    machine: dict[str, str | int | float]
    commit: str | None
    dirty: bool | None
    started_at_utc: str
    duration_s: float


STRUCTS: tuple[type[msgspec.Struct], ...] = (Study, BlockTimes, Contender, Budget)


def encode(study: Study) -> bytes:
    """JSON, two-space indented, keys in the order of the schema, newline at the end."""
    return msgspec.json.format(msgspec.json.encode(study), indent=2) + b"\n"


def encode_line(study: Study) -> str:
    """The study on one line, for ``--format json``."""
    return msgspec.json.encode(study).decode()


def decode(data: bytes) -> Study:
    """Parse one study strictly.

    Raises:
        ValueError: truncated, not a study, an unknown field, another schema version, a contender
            that is not there, or contenders with unequal numbers of rounds.
    """
    try:
        study = msgspec.json.decode(data, type=Study)
    except msgspec.DecodeError as error:  # ValidationError is a subclass
        raise ValueError(f"not a budget study of schema {SCHEMA_VERSION}: {error}") from error
    if study.schema_version != SCHEMA_VERSION:
        raise ValueError(
            f"schema version {study.schema_version}; this program reads {SCHEMA_VERSION}"
        )
    _check(study)
    return study


def _check(study: Study) -> None:
    count = len(study.contenders)
    for budget in study.budgets:
        if not 0 <= budget.contender < count:
            raise ValueError(f"a budget names contender {budget.contender} of {count}")
    if not count or {len(one.step_s) for one in study.contenders} != {study.rounds}:
        raise ValueError(f"every contender of a budget study has {study.rounds} timed rounds")


def path_of(study: Study, results: Path = RESULTS) -> Path:
    """``<results>/budgets/<machine>/<workload>.json``; off the CPU the device is in the name."""
    name = study.workload if study.device == "cpu" else f"{study.workload}-{study.device}"
    return results / FOLDER / study.machine_id / f"{name}.json"


def write(study: Study, results: Path = RESULTS) -> Path:
    """Store a study atomically, in place of an earlier one; returns where."""
    path = path_of(study, results)
    write_atomically(path, encode(study))
    return path


def paths(results: Path = RESULTS) -> list[Path]:
    """Where studies are, in order."""
    return sorted((results / FOLDER).rglob("*.json"))


def read_all(results: Path = RESULTS) -> Iterator[Study]:
    """Every study, in path order; files that are none are set aside with a warning."""
    for path in paths(results):
        try:
            yield decode(path.read_bytes())
        except ValueError as error:
            set_aside(path, str(error))
