"""What became of one real architecture under the strategies: one JSON file a model and machine.

Raw bytes and verdicts; ratios and counts are derived by `bench.report.models`. Imports no torch.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from bench.store.json_store import JsonStore, Provenance

SCHEMA_VERSION = 1
FOLDER = "models"
OWN = "library's own"
"""Stands for the library's own checkpointing, among the specifications of strategies."""

Verdict = Literal["bitwise", "refused", "WRONG", "error"]
BAD: frozenset[Verdict] = frozenset({"WRONG", "error"})


class Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two training steps under one strategy, against those of the model as it is."""

    spec: str
    verdict: Verdict
    reason: str = ""
    peak_bytes: int | None = None


class Study(Provenance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One architecture on one machine.

    Field by field documentation: ``results/README.md``; a test holds the two together.
    """

    schema_version: int = SCHEMA_VERSION
    # What was run.
    model: str
    library: str
    library_version: str | None
    # What was found.
    problem: str = ""
    parameter_count: int = 0
    block_count: int = 0
    towers: list[str] = msgspec.field(default_factory=list)
    left_out: list[str] = msgspec.field(default_factory=list)
    resident_bytes: int = 0
    plain_peak_bytes: int | None = None
    outcomes: list[Outcome] = msgspec.field(default_factory=list)

    @property
    def installed(self) -> bool:
        """Whether its library was there."""
        return self.library_version is not None

    @property
    def bad(self) -> bool:
        """Whether anything of ours was wrong, or ended in an error."""
        ours = [one.verdict for one in self.outcomes if one.spec != OWN]
        return bool(self.problem) or not BAD.isdisjoint(ours)


def _name(study: Study) -> str:
    slug = re.sub(r"[^\w.]+", "-", study.model)
    return f"{study.machine_id}/{slug}.json"


STORE = JsonStore(
    kind=Study, noun="study of a model", folder=FOLDER, name=_name, version=SCHEMA_VERSION
)
encode, encode_line, decode = STORE.encode, STORE.encode_line, STORE.decode
path_of, write, paths, read_all = STORE.path_of, STORE.write, STORE.paths, STORE.read_all
