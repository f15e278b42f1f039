"""The fastest nested plan within a budget, by mixed-integer programming: for short chains."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from strategies.contract.budgeted import Budgeted
from strategies.contract.strategy import Planned
from strategies.execution.chain import Chain
from strategies.execution.errors import Unsupported
from strategies.profiling.step import Step
from strategies.schedules.profile import ChainProfile
from strategies.schedules.solution import Solution


@dataclasses.dataclass(frozen=True, kw_only=True)
class Milp(Budgeted):
    """Least recomputation within a budget, by mixed-integer programming over few unlike blocks.

    Checkmate's programme (Jain et al. 2020, arXiv 1910.02653, §4) at block level, over the plans
    that nested checkpoints can run: what `optimal` finds, byte-exact and by other means. See
    `strategies.solvers.milp`.
    """

    textbook_compute: ClassVar[str | None] = "least for the budget"

    def profiled(self, chain: Chain, step: Step) -> Chain:
        """The chain with its profile.

        Raises:
            Unsupported: the chain is too long; said before the time for a profile is spent.
        """
        self._check(chain)
        return super().profiled(chain, step)

    def planned(self, chain: Chain) -> Planned:
        """The schedule for this budget.

        Raises:
            ValueError: the chain has no profile.
            Unsupported: the chain is too long, or nothing fits; names the smallest budget that
                does.
        """
        self._check(chain)
        return super().planned(chain)

    def _check(self, chain: Chain) -> None:
        from strategies.solvers import milp  # noqa: PLC0415 - only where it is used

        reason = milp.too_long(len(chain))
        if reason:
            raise Unsupported(f"{self.spec()}: {reason}; optimal takes chains of any length")

    def solution(self, profile: ChainProfile, budget_bytes: int) -> Solution | None:
        """See `solvers.milp.solve`."""
        from strategies.solvers import milp  # noqa: PLC0415 - as above

        return milp.solve(profile, budget_bytes)

    def smallest_bytes(self, profile: ChainProfile) -> int:
        """See `solvers.milp.smallest_bytes`."""
        from strategies.solvers import milp  # noqa: PLC0415 - as above

        return milp.smallest_bytes(profile)

    @classmethod
    def grid(cls) -> Sequence[Milp]:
        """The budgets of `optimal`: the two must agree."""
        return tuple(cls(budget=budget) for budget in ("40%", "70%"))
