"""Published measurements of GPU memory: one JSON file each, with what is modelled for it.

Where a figure was read, and the configuration that it was measured with, are written by hand; what
is modelled is filled in by ``python -m bench published``. Field by field documentation:
``results/README.md``; a test holds the two together. Imports no torch.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from bench.store.json_store import JsonStore, Provenance

SCHEMA_VERSION = 1
FOLDER = "published"
# What one of a unit is: bytes, or for batches one row.
UNITS = {"B": 1, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30, "rows": 1}
Kind = Literal["operator", "block", "model", "batch", "formula"]


class Search(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The largest value of an option that still fits the device."""

    option: str
    lowest: int
    highest: int
    step: int


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was run, as data that ``bench.published`` builds."""

    subject: str
    options: dict[str, Any]
    quantity: str
    requested: bool = False
    steps: int = 3
    search: Search | None = None


class Point(Provenance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One published figure."""

    schema_version: int = SCHEMA_VERSION
    name: str
    source: str
    where: str
    product: str
    device: str
    kind: Kind
    checkpointing: bool
    unit: str
    published: float
    configuration: Configuration
    sound: bool = True
    remark: str
    modelled: float | None = None
    error_fraction: float | None = None


def error_of(modelled: float, published: float) -> float:
    """Modelled over published, less one; 0 where both are nothing."""
    if published == 0:
        return 0.0 if modelled == 0 else math.inf
    return modelled / published - 1


def _check(point: Point) -> None:
    """Raise ValueError for a point without sense."""
    if point.unit not in UNITS:
        raise ValueError(f"no unit {point.unit!r}; there are {', '.join(UNITS)}")
    if not (math.isfinite(point.published) and point.published >= 0):
        raise ValueError(f"published must be finite and at least 0, not {point.published}")
    if point.modelled is not None and point.error_fraction is not None:
        error = error_of(point.modelled, point.published)
        if not math.isclose(error, point.error_fraction, rel_tol=1e-6, abs_tol=1e-12):
            raise ValueError(f"the error is {error}, not {point.error_fraction}")


STORE = JsonStore(
    kind=Point,
    noun="published point",
    folder=FOLDER,
    name=lambda point: f"{point.name}.json",
    version=SCHEMA_VERSION,
    check=_check,
)
encode, encode_line, decode = STORE.encode, STORE.encode_line, STORE.decode
path_of, write, paths, read_all = STORE.path_of, STORE.write, STORE.paths, STORE.read_all
