"""The study of what intervals cover: one JSON file, for a simulation depends on no machine.

Field by field documentation: ``results/README.md``; a test holds the two together. Imports no
torch, so that the report can be made on a machine without it.
"""

from __future__ import annotations

import msgspec

from bench.store.json_store import JsonStore, Provenance

SCHEMA_VERSION = 1
FOLDER = "coverage"


class Method(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one kind of interval did in all samples of a case."""

    covered: int
    median_width: float


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of noise, at one number of rounds."""

    noise: str
    rounds: int
    interval: Method
    bootstrap: Method


class Study(Provenance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All cases."""

    schema_version: int = SCHEMA_VERSION
    numpy_version: str
    level: float
    ratio: float
    samples: int
    resamples: int
    noises: dict[str, str]
    cases: list[Case]


def _check(study: Study) -> None:
    for case in study.cases:
        if case.noise not in study.noises:
            raise ValueError(f"noise {case.noise} is not described")
        for method in (case.interval, case.bootstrap):
            if not 0 <= method.covered <= study.samples:
                raise ValueError(f"{method.covered} of {study.samples} samples were covered")


STORE = JsonStore(
    kind=Study,
    noun="study of coverage",
    folder=FOLDER,
    name=lambda _: "intervals.json",
    version=SCHEMA_VERSION,
    check=_check,
)
encode, encode_line, decode = STORE.encode, STORE.encode_line, STORE.decode
write, paths, read_all = STORE.write, STORE.paths, STORE.read_all
