"""A claim of the textbook: what it says, what that predicts, and who judges it."""

from __future__ import annotations

import dataclasses

from bench.report.judges import Judge


@dataclasses.dataclass(frozen=True)
class Statement:
    """Of the textbook."""

    id: str
    source: str
    predicts: str


@dataclasses.dataclass(frozen=True)
class Claim(Statement):
    """One that records can bear out or contradict."""

    check: Judge
