"""The budget study: everything measured about one workload at a number of budgets.

One JSON file a workload and machine. Raw bytes and seconds; ratios, intervals and verdicts are
derived by `bench.report.budgets`. Imports no torch, so that the report can be made without it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bench.store import ranges
from bench.store.json_store import JsonStore, Provenance

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


class Study(Provenance, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    none_again_step_s: list[float] = msgspec.field(default_factory=list)
    # How.
    profile_rounds: int
    rounds: int
    warmup: int
    threads: int


def _check(study: Study) -> None:
    count = len(study.contenders)
    for budget in study.budgets:
        if not 0 <= budget.contender < count:
            raise ValueError(f"a budget names contender {budget.contender} of {count}")
    if len(study.none_again_step_s) not in {0, study.rounds}:
        raise ValueError(f"none is timed again in {study.rounds} rounds or not at all")
    if not count or {len(one.step_s) for one in study.contenders} != {study.rounds}:
        raise ValueError(f"every contender of a budget study has {study.rounds} timed rounds")


def _name(study: Study) -> str:
    """Off the CPU the device is in the name."""
    workload = ranges.folder_of(study.workload)
    name = workload if study.device == "cpu" else f"{workload}-{study.device}"
    return f"{study.machine_id}/{name}.json"


STORE = JsonStore(
    kind=Study,
    noun="budget study",
    folder=FOLDER,
    name=_name,
    version=SCHEMA_VERSION,
    check=_check,
)
encode, encode_line, decode = STORE.encode, STORE.encode_line, STORE.decode
path_of, write, paths, read_all = STORE.path_of, STORE.write, STORE.paths, STORE.read_all
