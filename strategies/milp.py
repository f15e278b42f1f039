"""The fastest nested plan within a budget, by mixed-integer programming: for short chains."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from strategies.base import Unsupported
from strategies.budget import Budgeted, known, resolve
from strategies.chain import Chain
from strategies.cost import predict
from strategies.profile import ChainProfile
from strategies.profiling.step import Step
from strategies.schedule import Schedule


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

    def schedule(self, chain: Chain) -> Schedule:
        """The schedule for this budget.

        Raises:
            ValueError: the chain has no profile.
            Unsupported: the chain is too long, or nothing fits; names the smallest budget that
                does.
        """
        self._check(chain)
        return super().schedule(chain)

    def _check(self, chain: Chain) -> None:
        from strategies.solvers import milp  # noqa: PLC0415 - only where it is used

        reason = milp.too_long(len(chain))
        if reason:
            raise Unsupported(f"{self.spec()}: {reason}; optimal takes chains of any length")

    def solve(self, profile: ChainProfile, budget_bytes: int) -> Schedule | None:
        """See `solvers.milp.solve`."""
        from strategies.solvers import milp  # noqa: PLC0415 - as above

        found = milp.solve(profile, budget_bytes)
        return None if found is None else found.schedule

    def smallest_bytes(self, profile: ChainProfile) -> int:
        """See `solvers.milp.smallest_bytes`."""
        from strategies.solvers import milp  # noqa: PLC0415 - as above

        return milp.smallest_bytes(profile)

    def notes(self, chain: Chain) -> Sequence[str]:
        """How much of the budget is used, and how far from the proven bound the plan is."""
        from strategies.solvers import milp  # noqa: PLC0415 - as above

        profile = known(chain, self)
        found = milp.solve(profile, resolve(self.budget, profile))
        if found is None:
            return super().notes(chain)
        step_s = predict(profile, found.schedule).step_s
        bound_s = profile.plain_step_s + found.bound_s
        gap = f"no nested plan is faster by more than {step_s / bound_s - 1:.2%} of a step"
        return (*super().notes(chain), f"{gap} (memory counted to the byte)")

    @classmethod
    def grid(cls) -> Sequence[Milp]:
        """The budgets of `optimal`: the two must agree."""
        return tuple(cls(budget=budget) for budget in ("40%", "70%"))
