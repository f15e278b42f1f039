"""What advice on a cluster says, as plain data; no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bench.advise.facts import Candidate, Setting


@dataclasses.dataclass(frozen=True)
class RankCandidate(Candidate):
    """One rank's step under one strategy, as ``run --ranks`` records it.

    Attributes:
        by_category: bytes at the peak.
        step_s: modelled.
        waiting_s: of the step, for other ranks.
        communication_bytes: of a step, by collective.
    """

    by_category: Mapping[str, int] = dataclasses.field(default_factory=dict)
    step_s: float | None = None
    waiting_s: float | None = None
    communication_bytes: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Smaller:
    """The next smaller cluster, which does not hold the model.

    Attributes:
        ranks: of it.
        spec: the strategy with the lowest peak.
        reserved_bytes: that a rank would need under it.
    """

    ranks: int
    spec: str
    reserved_bytes: int


@dataclasses.dataclass(frozen=True)
class SharedFacts:
    """What to do about one model on several devices; all is modelled.

    Attributes:
        setting: what it is for; its room is one rank's.
        ranks: of the cluster.
        parallel: how they share the model.
        candidates: strategies; the first is `none`, the step as it is.
        chosen: the specification of the fastest that fits; ``None``: none does.
        line: of code that applies it; empty where nothing is to be done, or nothing fits.
        command: that runs one rank under the chosen one; empty where nothing fits.
        smaller: where the smallest cluster was asked for: the next smaller one.
    """

    setting: Setting
    ranks: int
    parallel: str
    candidates: tuple[RankCandidate, ...]
    chosen: str | None
    line: str
    command: str
    smaller: Smaller | None

    @property
    def as_it_is(self) -> RankCandidate:
        """A rank's step without a strategy."""
        return self.candidates[0]

    @property
    def fits(self) -> bool:
        """Whether that fits."""
        return self.as_it_is.fits

    @property
    def strategy(self) -> RankCandidate | None:
        """The chosen one."""
        return next((one for one in self.candidates if one.spec == self.chosen), None)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as JSON has it."""
        return {"fits": self.fits, **dataclasses.asdict(self)}
