"""Profile, solve, measure, apply: the strategy for those who do not want to choose one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

from strategies.contract.prepared import device_of
from strategies.contract.strategy import Planned, Strategy
from strategies.execution.chain import Chain
from strategies.hybrid import AUTO, Hybrid, may_send_outputs, traffic
from strategies.memory_budget import MemoryBudget
from strategies.optimal import Optimal
from strategies.profiling.allocator import SEEN
from strategies.profiling.compiled import is_compiled
from strategies.schedules import budget as budgets
from strategies.schedules.budget import Answer
from strategies.schedules.interpreter import predict
from strategies.schedules.modes import Compilation
from strategies.schedules.plan import plain
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import ALL, HOST, Schedule
from strategies.schedules.solution import Solution, fastest
from strategies.selective_ops import SelectiveOps
from strategies.storage import Storage
from strategies.storage.auto import check

WORTH = 0.01
"""Of a step: for less, a link that others use too is left alone."""
MOST_BLOCKS = 64
"""Of a chain whose boundaries are tried one by one; with more, that takes minutes."""
WHOLE = 0.6
"""Of what its blocks need, compiled one by one, a model may need so little (a U-Net: 0.71)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auto(Optimal):
    """The fastest schedule known to fit: ``strategies.apply(model, "auto", budget="8GB", …)``.

    The best of five: `Optimal` without op policies and with them, which groups blocks,
    `SelectiveOps`, which chooses inside them, and the two kinds of `Hybrid`, which sends boundaries
    and outputs of operators to the host (boundaries to a disk if told) beside compute, if a
    hundredth of a step can be gained by it. What op policies and transfers cost beside what the
    profile counts, it does not know; so where an example runs on a real device, a step of each is
    timed, interleaved, and its peak is measured: a plan that breaks the budget gives way to a
    tighter one. Where blocks run faster compiled (``compile=True``), the compiler alone chooses
    inside them, or nothing is compiled, whichever is the faster; and the whole model is compiled
    under PyTorch's memory budget (`MemoryBudget`), measured, and taken in the place of a plan if
    its peak is in the budget and it is faster.

    Attributes:
        verify: measure; without it, the profile alone decides, and its prediction is the promise.
        disk: boundaries may rest on a disk where there is no other place, as of a model on a CPU;
            then what fits with it alone is a plan, too.
        directory: where their files go; default the system's temporary folder.
    """

    operators: ClassVar[bool] = True
    among: ClassVar[str] = "nested plan or choice of operators"

    verify: bool = True
    disk: bool = False
    directory: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("auto", AUTO, self.directory)
        if self.directory and not self.disk:
            raise ValueError("auto: a directory is for what rests on a disk: disk=True")

    def solution(self, profile: ChainProfile, budget_bytes: int) -> Solution | None:
        """The fastest of all, by the profile's times."""
        return fastest(profile, self.solutions(profile, budget_bytes))

    def solutions(self, profile: ChainProfile, budget_bytes: int) -> list[Solution]:
        """The best plan in which nothing is dispatched by Python first; the bound holds for all."""
        answers = self._of_each_kind(profile, budget_bytes)
        distinct: dict[Schedule, Solution] = {}
        for answer in filter(None, answers):
            distinct.setdefault(answer.schedule, answer)
        if not distinct:
            return []
        bounds = [answer.bound_s for answer in filter(None, answers)]
        bound_s = min([*bounds, *self._not_ruled_out(profile, budget_bytes, answers)])
        return [dataclasses.replace(answer, bound_s=bound_s) for answer in distinct.values()]

    def _of_each_kind(self, profile: ChainProfile, budget_bytes: int) -> list[Solution | None]:
        answers = [
            super().solution(_without_policies(profile), budget_bytes),
            super().solution(profile, budget_bytes),
        ]
        if not _is_faster_compiled(profile):
            answers.append(self._inside.solution(profile, budget_bytes))
            answers += self._beside_compute(profile, budget_bytes, answers)
        return answers

    def _not_ruled_out(
        self, profile: ChainProfile, budget_bytes: int, answers: Sequence[Solution | None]
    ) -> Iterator[float]:
        """A solver that found nothing has a bound as well: what fits may have escaped it."""
        _, nested, *others = answers
        if nested is None:
            yield super().bound_s(profile, budget_bytes)
        if others and others[0] is None:
            yield self._inside.bound_s(profile, budget_bytes)

    @property
    def _inside(self) -> SelectiveOps:
        return SelectiveOps(budget=self.budget)

    def storage(self) -> Storage:
        """Of the boundaries that a schedule sends away, if it does."""
        return Hybrid(budget=self.budget, directory=self.directory).storage()

    def remarks(self, answer: Answer) -> Sequence[str]:
        """Further, what crosses the link."""
        crossing = (traffic(answer.profile, answer.prediction),)
        return (*super().remarks(answer), *crossing * answer.schedule.sends)

    def candidates(self, chain: Chain) -> Sequence[Planned]:
        """Each of them, if they are to be measured."""
        if not self.verify:
            return ()
        return [
            Planned(answer.schedule, tuple(self.remarks(answer)), answer.prediction)
            for answer in self.answers(self.profile_of(chain))
        ]

    def wholes(self, chain: Chain) -> Sequence[Strategy]:
        """The whole model compiled under the budgets under which its blocks were.

        Those under which the blocks, compiled one by one, would need far too much are left out:
        each is a compilation, and it is the measured peak that decides. On a device where compiled
        blocks are not watched, it decides alone.
        """
        profile = self.profile_of(chain)
        shares = list(filter(None, map(Compilation.parse, self.compilations())))
        if profile.eager_blocks:
            budget_bytes = budgets.resolve(self.budget, profile)
            shares = [one for one in shares if _least_bytes(profile, one.name) <= budget_bytes]
        elif not _runs_unwatched(chain):
            return ()
        backend = self.backend
        return [MemoryBudget(fraction=one.per_cent / 100, backend=backend) for one in shares]

    def smallest_bytes(self, profile: ChainProfile) -> int:
        """The smallest of all."""
        if _is_faster_compiled(profile):
            return super().smallest_bytes(profile)
        sizes = [super().smallest_bytes(profile), self._inside.smallest_bytes(profile)]
        if self._may_send(profile) and self.disk:
            sizes.append(Hybrid().smallest_bytes(profile))
        return min(sizes)

    def _beside_compute(
        self, profile: ChainProfile, budget_bytes: int, others: Sequence[Solution | None]
    ) -> Iterator[Solution | None]:
        """With something away, where it may pay, or where nothing else fits a disk's user."""
        times_s = [predict(profile, other.schedule).step_s for other in others if other is not None]
        least_s = math.inf if self.disk else 0.0
        to_gain_s = min(times_s, default=least_s) - profile.plain_step_s
        if to_gain_s <= WORTH * profile.plain_step_s:
            return
        if self._may_send(profile):
            yield from Hybrid().solutions(profile, budget_bytes)
        elif may_send_outputs(profile):
            from strategies.solvers import selective_ops_sent  # noqa: PLC0415 - brings a solver

            yield selective_ops_sent.solve(profile, budget_bytes)

    def _may_send(self, profile: ChainProfile) -> bool:
        allowed = self.disk or profile.link_tier == HOST
        return allowed and len(profile.blocks) <= MOST_BLOCKS

    @classmethod
    def grid(cls) -> Sequence[Auto]:
        """One budget."""
        return (cls(),)


def _without_policies(profile: ChainProfile) -> ChainProfile:
    """The profile of blocks that run as they are, or as a compiler made them."""
    blocks = tuple(
        dataclasses.replace(
            block,
            modes=tuple(m for m in block.modes if m.name == ALL or Compilation.parse(m.name)),
        )
        for block in profile.blocks
    )
    return dataclasses.replace(profile, blocks=blocks)


def _least_bytes(profile: ChainProfile, name: str) -> float:
    """Of the peak of the whole model compiled under the budget of that mode."""
    return WHOLE * predict(profile, _compiled(profile, name)).peak_bytes


def _compiled(profile: ChainProfile, name: str) -> Schedule:
    """Every block that can in that mode, none in a group."""
    named = [
        name if any(mode.name == name for mode in block.modes) else first
        for block, first in zip(profile.blocks, profile.first_modes, strict=True)
    ]
    return Schedule(plain(len(profile.blocks)), tuple(named))


def _runs_unwatched(chain: Chain) -> bool:
    """Whether nobody sees what its blocks need compiled; if they were compiled before, all do."""
    is_elsewhere = any(device_of(block).type not in SEEN for block in chain.blocks)
    return is_elsewhere and not any(map(is_compiled, chain.blocks))


def _is_faster_compiled(profile: ChainProfile) -> bool:
    return not set(profile.first_modes) <= {ALL}
