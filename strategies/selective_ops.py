"""Operators kept or run again, chosen for a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from strategies.budget import Budgeted, known, resolve
from strategies.chain import Chain
from strategies.cost import predict
from strategies.operators import kept_by
from strategies.profile import ChainProfile
from strategies.schedule import Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectiveOps(Budgeted):
    """Inside every block, keep those operators' outputs that save most time within the budget.

    PyTorch's selective checkpointing runs the policies; what to keep is chosen by an exact 0/1
    programme on the peak of the step (see `strategies.solvers.ops`), as Checkmate does for whole
    graphs (Jain et al. 2020, arXiv 1910.02653). Views are made again from what they view, operators
    that write in place run again, and a random operator runs again only if none before it is kept.

    A block with a policy can be run backward once only: PyTorch refuses a second backward of the
    same graph.
    """

    textbook_compute: ClassVar[str | None] = "least of operators for the budget"
    modes: ClassVar[tuple[str, ...]] = ()
    operators: ClassVar[bool] = True

    def solve(self, profile: ChainProfile, budget_bytes: int) -> Schedule | None:
        """See `ops.solve`."""
        from strategies.solvers import ops  # noqa: PLC0415 - brings a solver

        found = ops.solve(profile, budget_bytes)
        return None if found is None else found.schedule

    def smallest_bytes(self, profile: ChainProfile) -> int:
        """See `ops.smallest_bytes`."""
        from strategies.solvers import ops  # noqa: PLC0415 - as above

        return ops.smallest_bytes(profile)

    def notes(self, chain: Chain) -> Sequence[str]:
        """How far from the bound, and which operators each policy keeps."""
        from strategies.solvers import ops  # noqa: PLC0415 - as above

        profile = known(chain, self)
        found = ops.solve(profile, resolve(self.budget, profile))
        if found is None:
            return super().notes(chain)
        step_s = predict(profile, found.schedule).step_s
        gap = step_s / (profile.plain_step_s + found.bound_s) - 1
        sentence = f"no choice of operators is faster by more than {gap:.2%} of a step"
        return (*super().notes(chain), sentence, *_kept_names(profile, found.schedule))

    @classmethod
    def grid(cls) -> Sequence[SelectiveOps]:
        """A tight budget and a loose one."""
        return tuple(cls(budget=budget) for budget in ("40%", "70%"))


def _kept_names(profile: ChainProfile, schedule: Schedule) -> list[str]:
    """``keep(3,25): addmm, _softmax``, once for each policy and kind of block."""
    found: dict[str, None] = {}
    for block, name in zip(profile.blocks, schedule.modes, strict=False):
        kept = kept_by(name)
        if kept and block.operators is not None:
            names = ", ".join(block.operators.operators[number].name for number in sorted(kept))
            found[f"{name}: {names}"] = None
    return list(found)
