"""Promised and measured peaks of one model's training loop: one JSON file a model and machine.

Raw bytes; what was kept and how much was used is derived by `bench.report.promises`. Imports no
torch.
"""

from __future__ import annotations

import re

import msgspec

from bench.store.json_store import JsonStore, Provenance

SCHEMA_VERSION = 1
FOLDER = "promises"


class Promise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One budget, and the peak of the loop that was trained within it."""

    budget_bytes: int
    plan: str
    predicted_peak_bytes: int
    peak_allocated_bytes: int
    gap_fraction: float


class Loop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training loop under one budget after another."""

    accumulation: bool
    plain_peak_bytes: int
    smallest_bytes: int
    promises: list[Promise]


class Study(Provenance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model on one machine.

    Field by field documentation: ``results/README.md``; a test holds the two together.
    """

    schema_version: int = SCHEMA_VERSION
    # What was run.
    model: str
    library: str
    library_version: str | None
    device: str
    device_name: str
    strategy: str
    optimizer: str
    updates: int
    # What was found.
    problem: str = ""
    loops: list[Loop] = msgspec.field(default_factory=list)


def _name(study: Study) -> str:
    slug = re.sub(r"[^\w.]+", "-", study.model)
    device = "" if study.device == "cpu" else f"-{study.device}"
    return f"{study.machine_id}/{slug}{device}.json"


STORE = JsonStore(
    kind=Study, noun="study of promises", folder=FOLDER, name=_name, version=SCHEMA_VERSION
)
encode, encode_line, decode = STORE.encode, STORE.encode_line, STORE.decode
path_of, write, paths, read_all = STORE.path_of, STORE.write, STORE.paths, STORE.read_all
