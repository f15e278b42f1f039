"""The fastest nested plan within a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from strategies.contract.budgeted import Budgeted
from strategies.schedules.profile import ChainProfile
from strategies.schedules.solution import Solution


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimal(Budgeted):
    """Least recomputation within a budget, by dynamic programming over unlike blocks.

    Each block is stored whole, stored as its input, not stored, or run under an op policy
    (Beaumont et al. 2019, arXiv 1911.13214; several ways to run a block as in Zhao et al. 2023,
    arXiv 2307.01236). See `strategies.solvers.optimal`.

    Attributes:
        slots: how finely the programme counts memory; 0: as finely as takes about a second.
    """

    textbook_compute: ClassVar[str | None] = "least for the budget"

    slots: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slots < 0:
            raise ValueError(f"optimal: slots must be at least 0, not {self.slots}")

    def solution(self, profile: ChainProfile, budget_bytes: int) -> Solution | None:
        """See `strategies.solvers.optimal.solve`."""
        from strategies.solvers import optimal  # noqa: PLC0415 - brings a compiler

        return optimal.solve(profile, budget_bytes, self.slots)

    def smallest_bytes(self, profile: ChainProfile) -> int:
        """See `strategies.solvers.optimal.smallest_bytes`."""
        from strategies.solvers import optimal  # noqa: PLC0415 - as above

        return optimal.smallest_bytes(profile)

    @classmethod
    def grid(cls) -> Sequence[Optimal]:
        """A tight budget and a loose one."""
        return tuple(cls(budget=budget) for budget in ("40%", "70%"))
