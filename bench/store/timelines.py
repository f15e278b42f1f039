"""Memory over one step, thinned to what a picture shows: one JSON file a cell and machine.

The moments that are kept hold their exact bytes; `bench.report.timeline.thin` says which are kept.
Imports no torch.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import msgspec

from bench.store.json_store import JsonStore, Provenance, digest
from bench.store.ranges import folder_of

SCHEMA_VERSION = 1
FOLDER = "timelines"


class Phase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stretch of the step, in units of the horizontal axis."""

    name: str
    begin: float
    end: float


class Peak(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The moment at which most bytes are alive."""

    position: float
    size_bytes: int
    operator: str
    module: str
    phase: str
    peak_by_category: dict[str, int]


class Study(Provenance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of one cell.

    Field by field documentation: ``results/README.md``; a test holds the two together.
    """

    schema_version: int = SCHEMA_VERSION
    # What was run.
    workload: str
    workload_options: dict[str, Any]
    spec: str
    device: str
    device_name: str
    modelled: bool
    precision: str
    optimizer: str
    # What was found.
    moment_count: int
    axis: str
    axis_label: str
    positions: list[float]
    alive_by_category: dict[str, list[int]]
    phases: list[Phase]
    peak: Peak
    allocated_positions: list[float] = msgspec.field(default_factory=list)
    allocated_bytes: list[int] = msgspec.field(default_factory=list)
    limit_bytes: int | None = None


def _check(study: Study) -> None:
    count = len(study.positions)
    if not count or {len(counts) for counts in study.alive_by_category.values()} != {count}:
        raise ValueError(f"every category of a timeline has a count for each of {count} positions")
    if len(study.allocated_positions) != len(study.allocated_bytes):
        raise ValueError("the allocator has as many positions as counts")
    for positions in (study.positions, study.allocated_positions):
        if any(later < earlier for earlier, later in pairwise(positions)):
            raise ValueError("the positions of a timeline never fall")


def _name(study: Study) -> str:
    """What was run, as far as it can be read; a digest tells settings apart."""
    setting = (study.workload_options, study.spec, study.device, study.precision, study.optimizer)
    readable = re.sub(r"[^\w.]+", "-", f"{study.spec}-{study.device}")[:80].strip("-.")
    folder = folder_of(study.workload)
    return f"{study.machine_id}/{folder}/{readable}-{digest(setting)[:8]}.json"


STORE = JsonStore(
    kind=Study,
    noun="timeline",
    folder=FOLDER,
    name=_name,
    version=SCHEMA_VERSION,
    check=_check,
)
encode, encode_line, decode = STORE.encode, STORE.encode_line, STORE.decode
path_of, write, paths, read_all = STORE.path_of, STORE.write, STORE.paths, STORE.read_all
