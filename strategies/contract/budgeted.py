"""Budgets, in bytes or as a share, and the strategies that keep one."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from strategies.contract.remedies import NothingFits
from strategies.contract.strategy import Planned, Strategy
from strategies.execution.block_modes import MODES
from strategies.execution.chain import Chain
from strategies.execution.errors import Unsupported
from strategies.profiling.profiler import profile_chain
from strategies.profiling.step import Step
from strategies.schedules import budget as budgets
from strategies.schedules.budget import Answer, counted, parse, resolve
from strategies.schedules.modes import Compilation
from strategies.schedules.plan import Plan
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import Schedule
from strategies.schedules.solution import Solution

CLOSE = "are close to those of none, not bitwise equal; the first step takes the time of compiling"
"""What to know of gradients where something is compiled."""


def measured(peak_bytes: int, budget_bytes: int) -> str:
    """A note on the peak of a step that was run."""
    share = f"{peak_bytes / budget_bytes:.1%} of {budget_bytes:,}"
    return f"measured on the example: a peak of {peak_bytes:,} bytes ({share})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budgeted(Strategy, abc.ABC):
    """A strategy that keeps the peak of a step within a budget.

    It needs to know what the blocks cost: `strategies.apply` takes an ``example`` batch for it, or
    a profile made before.

    Attributes:
        budget: of the *peak*, everything included: ``8GB``, ``8GiB``, bytes, or a share of what
            the step needs without checkpoints: ``50%``.
    """

    textbook_memory: ClassVar[str | None] = "a budget"
    needs_profile: ClassVar[bool] = True
    shown: ClassVar[tuple[str, ...]] = ("budget",)
    modes: ClassVar[tuple[str, ...]] = MODES
    """Op policies that the profile is to know."""
    operators: ClassVar[bool] = False
    """Whether the profile is to list each block's operators."""
    among: ClassVar[str] = "nested plan"
    """What the solver chooses from, and its bound is of."""

    budget: str = "50%"

    def __post_init__(self) -> None:
        parse(self.budget)

    def profiled(self, chain: Chain, step: Step) -> Chain:
        """The chain with its profile."""
        if chain.profile is not None:
            return chain
        if any(parameter.is_meta for parameter in step.model.parameters()):
            raise Unsupported(
                f"{self.spec()}: the model is on the meta device, without memory; plan when it has"
                " some (model.to_empty(device=…))"
            )
        try:
            profile = profile_chain(
                step,
                chain,
                modes=self.modes,
                operators=self.operators,
                scratch=True,
                compiled=self.compilations(),
            )
        except Unsupported as error:
            raise Unsupported(f"{self.spec()}: {error}") from error
        return dataclasses.replace(chain, profile=profile)

    def compilations(self) -> Sequence[str]:
        """Compiled modes that the profile is to know."""
        return ()

    def wholes(self, chain: Chain) -> Sequence[Strategy]:  # noqa: ARG002
        """What the whole model may be under in the place of a plan, if that is measured faster."""
        return ()

    @abc.abstractmethod
    def solution(self, profile: ChainProfile, budget_bytes: int) -> Solution | None:
        """The fastest schedule that this strategy finds within a budget, if there is one."""

    @abc.abstractmethod
    def smallest_bytes(self, profile: ChainProfile) -> int:
        """The smallest budget that `solution` can keep."""

    def solutions(self, profile: ChainProfile, budget_bytes: int) -> list[Solution]:
        """Schedules that differ in kind, the simplest first; one of them is the fastest."""
        solution = self.solution(profile, budget_bytes)
        return [] if solution is None else [solution]

    def profile_of(self, chain: Chain) -> ChainProfile:
        """What this strategy plans by: the chain's profile.

        Raises:
            ValueError: it has none.
        """
        return known(chain, self)

    def planned(self, chain: Chain) -> Planned:
        """The schedule for this budget, and how good it is.

        Raises:
            ValueError: the chain has no profile.
            NothingFits: names the smallest budget that does.
        """
        answer = budgets.best(self.answers(self.profile_of(chain)))
        return Planned(answer.schedule, tuple(self.remarks(answer)), answer.prediction)

    def schedule(self, chain: Chain) -> Schedule:
        """The schedule for this budget; see `planned`."""
        return self.planned(chain).schedule

    def plan(self, chain: Chain) -> Plan:
        """The plan of the schedule."""
        return self.planned(chain).schedule.plan

    def notes(self, chain: Chain) -> Sequence[str]:
        """See `remarks`."""
        return self.planned(chain).notes

    def answers(self, profile: ChainProfile) -> list[Answer]:
        """All `solutions`, with what they cost.

        Raises:
            Unsupported: there is none; names the smallest budget.
        """
        budget_bytes = resolve(self.budget, profile)
        fast, lean = (profile, profile.eager), (profile.lean,)
        for ways in (fast, lean):  # which is the slower: for what fits in no other way
            answers = [*self._answers(filter(None, ways), budget_bytes)]
            if answers:
                return answers
        raise NothingFits(self, min(profile.ways, key=self.smallest_bytes), budget_bytes)

    def _answers(self, profiles: Iterable[ChainProfile], budget_bytes: int) -> Iterator[Answer]:
        for profile in profiles:
            for solution in self.solutions(profile, budget_bytes):
                yield Answer.of(profile, budget_bytes, solution)

    def remarks(self, answer: Answer) -> Sequence[str]:
        """How much of the budget is used, and how far from the proven bound the schedule is."""
        peak_bytes = answer.prediction.peak_bytes
        used = f"{peak_bytes:,} bytes ({peak_bytes / answer.budget_bytes:.1%})"
        if answer.profile.faked:
            used += (
                "; profiled on fake tensors, for the step does not fit without checkpoints: scratch"
            )
            used += " memory of kernels comes on top"
        gap = f"no {self.among} is faster by more than {answer.gap_fraction:.2%} of a step"
        return (
            f"budget {answer.budget_bytes:,} bytes; predicted peak {used}",
            f"{gap} (memory counted {counted(answer.solution.slot_bytes)})",
            *_on_compiling(answer),
        )


def _on_compiling(answer: Answer) -> Sequence[str]:
    """What is compiled, and what is not, and why."""
    if not any(map(Compilation.parse, answer.schedule.modes)):
        return answer.profile.left_out
    return (f"gradients of compiled blocks {CLOSE}", *answer.profile.left_out)


def known(chain: Chain, strategy: Strategy) -> ChainProfile:
    """The chain's profile.

    Raises:
        ValueError: it has none.
    """
    if chain.profile is None:
        raise ValueError(
            f"{strategy.spec()} needs to know what the blocks cost; give an example:"
            f" strategies.apply(model, {strategy.name()!r}, example=batch)"
        )
    return chain.profile
