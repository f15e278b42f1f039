"""A claim of the textbook: what it says, what that predicts, and who judges it."""

from __future__ import annotations

import dataclasses

from bench.report.judges import Judge


@dataclasses.dataclass(frozen=True)
class Claim:
    """One statement of the textbook that records can bear out or contradict."""

    id: str
    source: str
    predicts: str
    check: Judge
