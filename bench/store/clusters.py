"""What one rank of clusters of several sizes needs: one JSON file a device.

Field by field documentation: ``results/README.md``; a test holds the two together. Imports no
torch, so that the report can be made on a machine without it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bench.store.json_store import JsonStore, Provenance

SCHEMA_VERSION = 1
FOLDER = "clusters"


class Rank(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rank of one cluster, under one strategy."""

    workload: str
    workload_options: dict[str, Any]
    ranks: int
    spec: str
    fits: bool
    peak_allocated_bytes: int
    reserved_bytes: int
    peak_by_category: dict[str, int]
    modelled_step_s: float
    modelled_communication_s: float
    modelled_exposed_s: float


class Study(Provenance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of them."""

    schema_version: int = SCHEMA_VERSION
    device: str
    device_name: str
    memory_bytes: int
    precision: str
    optimizer: str
    parallel: str
    points: list[Rank]


def _check(study: Study) -> None:
    for point in study.points:
        if point.ranks < 1:
            raise ValueError(f"{point.ranks} ranks")
        if point.fits and point.reserved_bytes > study.memory_bytes:
            raise ValueError(f"{point.reserved_bytes} bytes fit into {study.memory_bytes}")


STORE = JsonStore(
    kind=Study,
    noun="study of clusters",
    folder=FOLDER,
    name=lambda study: f"{study.device.removeprefix('sim:')}.json",
    version=SCHEMA_VERSION,
    check=_check,
)
encode, encode_line, decode = STORE.encode, STORE.encode_line, STORE.decode
write, paths, read_all = STORE.write, STORE.paths, STORE.read_all
