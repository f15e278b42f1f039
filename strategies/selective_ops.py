"""Operators kept or run again, chosen for a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from strategies.contract.budgeted import Budgeted
from strategies.schedules.budget import Answer
from strategies.schedules.modes import kept_by
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import Schedule
from strategies.schedules.solution import Solution


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectiveOps(Budgeted):
    """Inside every block, keep those operators' outputs that save most time within the budget.

    PyTorch's selective checkpointing runs the policies; what to keep is chosen by an exact 0/1
    programme on the peak of the step (see `solvers.selective_ops`), as Checkmate does for whole
    graphs (Jain et al. 2020, arXiv 1910.02653). Views are made again from what they view, operators
    that write in place run again, and a random operator runs again only if none before it is kept.
    """

    textbook_compute: ClassVar[str | None] = "least of operators for the budget"
    modes: ClassVar[tuple[str, ...]] = ()
    operators: ClassVar[bool] = True
    among: ClassVar[str] = "choice of operators"

    def solution(self, profile: ChainProfile, budget_bytes: int) -> Solution | None:
        """See `strategies.solvers.selective_ops_pooled.solve`."""
        from strategies.solvers import selective_ops_pooled  # noqa: PLC0415 - brings a solver

        return selective_ops_pooled.solve(profile, budget_bytes)

    def bound_s(self, profile: ChainProfile, budget_bytes: int) -> float:
        """See `strategies.solvers.selective_ops.bound_s`."""
        from strategies.solvers import selective_ops  # noqa: PLC0415 - as above

        return selective_ops.bound_s(profile, budget_bytes)

    def smallest_bytes(self, profile: ChainProfile) -> int:
        """See `strategies.solvers.selective_ops.smallest_bytes`."""
        from strategies.solvers import selective_ops  # noqa: PLC0415 - as above

        return selective_ops.smallest_bytes(profile)

    def remarks(self, answer: Answer) -> Sequence[str]:
        """Further, which operators each policy keeps."""
        return (*super().remarks(answer), *_kept_names(answer.profile, answer.schedule))

    @classmethod
    def grid(cls) -> Sequence[SelectiveOps]:
        """A tight budget and a loose one."""
        return tuple(cls(budget=budget) for budget in ("40%", "70%"))


def _kept_names(profile: ChainProfile, schedule: Schedule) -> list[str]:
    """``keep(3,25): addmm, _softmax``, once for each policy and kind of block."""
    descriptions: dict[str, None] = {}
    for block, name in zip(profile.blocks, schedule.modes, strict=False):
        kept = kept_by(name)
        if kept and block.operators is not None:
            names = ", ".join(block.operators.operators[number].name for number in sorted(kept))
            descriptions[f"{name}: {names}"] = None
    return list(descriptions)
