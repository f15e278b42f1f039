"""The fastest nested plan within a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from strategies.contract.budgeted import Budgeted
from strategies.execution.compiler import AOT_EAGER, INDUCTOR
from strategies.schedules.modes import COMPILED, PARTITIONED, Compilation
from strategies.schedules.profile import ChainProfile
from strategies.schedules.solution import Solution

PER_CENTS = (100, 50, 20)
"""Of what the compiler would save: blocks of different budgets mix, and each is a compilation."""
HOW = {INDUCTOR: COMPILED, AOT_EAGER: PARTITIONED}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimal(Budgeted):
    """Least recomputation within a budget, by dynamic programming over unlike blocks.

    Each block is stored whole, stored as its input, not stored, or run under an op policy
    (Beaumont et al. 2019, arXiv 1911.13214; several ways to run a block as in Zhao et al. 2023,
    arXiv 2307.01236). See `strategies.solvers.optimal`.

    Attributes:
        slots: how finely the programme counts memory; 0: as finely as takes about a second.
        compile: blocks compiled by themselves, each under a budget of its own
            (`strategies.memory_budget`), are ways to run a block, too.
        backend: ``inductor``, or ``aot_eager_decomp_partition``; see `strategies.memory_budget`.
    """

    textbook_compute: ClassVar[str | None] = "least for the budget"

    slots: int = 0
    compile: bool = False
    backend: str = INDUCTOR

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slots < 0:
            raise ValueError(f"optimal: slots must be at least 0, not {self.slots}")
        if self.backend not in HOW:
            valid = ", ".join(HOW)
            raise ValueError(f"{self.name()}: backend must be one of {valid}, not {self.backend!r}")

    @property
    def exact(self) -> bool:
        """Not bitwise where blocks are compiled."""
        return not self.compile

    @property
    def counted(self) -> bool:
        """Inductor's own kernels do not pass the dispatcher."""
        return not self.compile or self.backend != INDUCTOR

    def compilations(self) -> Sequence[str]:
        """Without a budget, as groups need it, and two that save less; groups save least."""
        shares = PER_CENTS if self.compile else ()
        return [Compilation(HOW[self.backend], per_cent).name for per_cent in shares]

    def solution(self, profile: ChainProfile, budget_bytes: int) -> Solution | None:
        """See `strategies.solvers.optimal.solve`."""
        from strategies.solvers import optimal  # noqa: PLC0415 - brings a compiler

        return optimal.solve(profile, budget_bytes, self.slots)

    def bound_s(self, profile: ChainProfile, budget_bytes: int) -> float:
        """See `strategies.solvers.optimal.bound_s`."""
        from strategies.solvers import optimal  # noqa: PLC0415 - as above

        return optimal.bound_s(profile, budget_bytes, self.slots)

    def smallest_bytes(self, profile: ChainProfile) -> int:
        """See `strategies.solvers.optimal.smallest_bytes`."""
        from strategies.solvers import optimal  # noqa: PLC0415 - as above

        return optimal.smallest_bytes(profile)

    @classmethod
    def grid(cls) -> Sequence[Optimal]:
        """A tight budget and a loose one."""
        return tuple(cls(budget=budget) for budget in ("40%", "70%"))
