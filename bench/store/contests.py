"""`auto` against every contender on one model: one JSON file a model, kind and machine.

Raw seconds and bytes; who won is derived by `bench.report.bouts`. Imports no torch.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from bench.store.json_store import RESULTS, JsonStore, Provenance

SCHEMA_VERSION = 1
FOLDER = "contests"
NONE = 0
"""The entry of `none`."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was run: once, for all contenders that run the same."""

    plan: str
    peak_allocated_bytes: int
    predicted_peak_bytes: int | None = None
    predicted_step_s: float | None = None
    step_s: list[float] = msgspec.field(default_factory=list)


class Contender(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who asked for it, or why nothing was run."""

    spec: str
    entry: int | None = None
    reason: str = ""
    notes: list[str] = msgspec.field(default_factory=list)


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One budget: `auto`, and those that it meets; `auto` that may use a disk, where one does."""

    budget_bytes: int
    ours: Contender
    others: list[Contender]
    with_disk: Contender | None = None

    @property
    def own(self) -> list[Contender]:
        """Those of `auto`."""
        return [self.ours] if self.with_disk is None else [self.ours, self.with_disk]


class Contest(Provenance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One interleaved run of one model. The first entry is `none`.

    Field by field documentation: ``results/README.md``; a test holds the two together.
    """

    schema_version: int = SCHEMA_VERSION
    # What was run.
    key: str
    model: str
    library: str
    library_version: str | None
    device: str
    device_name: str
    compiled: bool
    accumulation: bool
    optimizer: str
    # What was found.
    problem: str = ""
    plain_peak_bytes: int = 0
    smallest_bytes: int = 0
    entries: list[Entry] = msgspec.field(default_factory=list)
    none_again_step_s: list[float] = msgspec.field(default_factory=list)
    budgets: list[Budget] = msgspec.field(default_factory=list)
    compiled_again_count: int = 0
    other_cpu_share: float | None = None
    # How.
    updates: int
    rounds: int = 0
    warmup: int
    interval_width: float | None
    rounds_limit_s: float | None
    threads: int


def _check(contest: Contest) -> None:
    if contest.problem and not contest.entries:
        return
    if not contest.entries:
        raise ValueError("a contest without a problem has entries")
    if {len(contest.entries[NONE].step_s), len(contest.none_again_step_s)} != {contest.rounds}:
        raise ValueError(f"none is timed in all {contest.rounds} rounds of a contest")
    if max(len(entry.step_s) for entry in contest.entries) > contest.rounds:
        raise ValueError(f"an entry of a contest is timed in more than {contest.rounds} rounds")
    present = [c for budget in contest.budgets for c in (*budget.own, *budget.others)]
    places = [contender.entry for contender in present if contender.entry is not None]
    if not set(places) <= set(range(len(contest.entries))):
        raise ValueError("a contender of a contest has no entry")


def _name(contest: Contest) -> str:
    slug = re.sub(r"[^\w.]+", "-", contest.model)
    kinds = [kind for kind in ("compiled", "accumulation") if getattr(contest, kind)]
    device = [] if contest.device == "cpu" else [contest.device]
    return f"{contest.machine_id}/{'-'.join([slug, *kinds, *device])}.json"


STORE = JsonStore(
    kind=Contest,
    noun="contest",
    folder=FOLDER,
    name=_name,
    version=SCHEMA_VERSION,
    check=_check,
)
encode, encode_line, decode = STORE.encode, STORE.encode_line, STORE.decode
path_of, write, paths, read_all = STORE.path_of, STORE.write, STORE.paths, STORE.read_all


def stored(blank: Contest, results: Path = RESULTS) -> Contest | None:
    """What a run that asks the same has found, if it came to something."""
    path = path_of(blank, results)
    found = STORE.read(path) if path.is_file() else None
    return found if found is not None and found.key == blank.key and not found.problem else None
