"""Profile, solve, apply: the strategy for those who do not want to choose one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from strategies.optimal import Optimal
from strategies.schedules.interpreter import predict
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import ALL
from strategies.schedules.solution import Solution
from strategies.selective_ops import SelectiveOps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auto(Optimal):
    """The fastest schedule known to fit: ``strategies.apply(model, "auto", budget="8GB", …)``.

    The better of `Optimal`, which groups blocks, and `SelectiveOps`, which chooses inside them: so
    it is never slower than any plan of groups of k blocks that fits. Where blocks run faster
    compiled (``compile=True``), the compiler alone chooses inside them, or nothing is compiled,
    whichever is the faster.
    """

    operators: ClassVar[bool] = True
    among: ClassVar[str] = "nested plan or choice of operators"

    def solution(self, profile: ChainProfile, budget_bytes: int) -> Solution | None:
        """The faster of the two, by the profile's times; the bound holds for both."""
        answers = [super().solution(profile, budget_bytes)]
        if not _is_faster_compiled(profile):
            answers.append(SelectiveOps(budget=self.budget).solution(profile, budget_bytes))
        solutions = [answer for answer in answers if answer is not None]
        if not solutions:
            return None
        best = min(solutions, key=lambda answer: predict(profile, answer.schedule).step_s)
        return dataclasses.replace(best, bound_s=min(answer.bound_s for answer in solutions))

    def smallest_bytes(self, profile: ChainProfile) -> int:
        """The smaller of the two."""
        if _is_faster_compiled(profile):
            return super().smallest_bytes(profile)
        inside = SelectiveOps(budget=self.budget)
        return min(super().smallest_bytes(profile), inside.smallest_bytes(profile))

    @classmethod
    def grid(cls) -> Sequence[Auto]:
        """One budget."""
        return (cls(),)


def _is_faster_compiled(profile: ChainProfile) -> bool:
    return not set(profile.first_modes) <= {ALL}
