"""Peers timed side by side: one JSON file a workload and machine, with raw seconds.

What each of them needs and whether its gradients are right is in records of cells, which lie beside
these files (`FOLDER`), so that no table of our own strategies counts them. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bench.store.json_store import JsonStore, Provenance

SCHEMA_VERSION = 1
FOLDER = "peers"
"""In the results: holds ``raw/`` with records of cells, and ``timed/``."""


class Timed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One contender: a strategy of ours, or a peer."""

    spec: str
    step_s: list[float]


class Run(Provenance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One interleaved run on one workload. The first contender is `none`.

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
    # What was measured.
    timed: list[Timed]
    none_again_step_s: list[float]
    untimed: dict[str, str] = msgspec.field(default_factory=dict)
    # How.
    rounds: int
    warmup: int
    threads: int


def within(results: Path) -> Path:
    """Where peers' files are, below the results."""
    return results / FOLDER


def _check(run: Run) -> None:
    counts = {len(one.step_s) for one in run.timed} | {len(run.none_again_step_s)}
    if not run.timed or counts != {run.rounds}:
        raise ValueError(f"every contender of a run of peers has {run.rounds} timed rounds")


def _name(run: Run) -> str:
    """Off the CPU the device is in the name."""
    name = run.workload if run.device == "cpu" else f"{run.workload}-{run.device}"
    return f"{run.machine_id}/{name}.json"


STORE = JsonStore(
    kind=Run,
    noun="run of peers",
    folder="timed",
    name=_name,
    version=SCHEMA_VERSION,
    check=_check,
)
encode, decode = STORE.encode, STORE.decode
write, paths, read_all = STORE.write, STORE.paths, STORE.read_all
