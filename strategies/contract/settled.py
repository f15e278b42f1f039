"""Plans measured before one is settled on: the fastest, and within its budget."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch._subclasses.fake_tensor import FakeTensor

from strategies.contract.budgeted import Budgeted, measured
from strategies.contract.prepared import Prepared
from strategies.contract.strategy import Planned
from strategies.contract.whole import or_whole
from strategies.execution.errors import Unsupported
from strategies.execution.undo import installed
from strategies.profiling import trial
from strategies.profiling.step import ExampleStep, Step
from strategies.schedules import budget as budgets
from strategies.schedules.modes import kept_by
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import ALL, Schedule

CONTENDERS = 2
"""That are timed beside the simplest plan."""
LONG_S = 0.25
"""A step that takes so many seconds is not run for the sake of a small gain."""
GAIN = 0.015
"""Part of such a step that one round of a clock does not show."""
ATTEMPTS = 4
"""To find a plan whose measured peak is within the budget."""
NUMBERS_BYTES = 64
"""Of plain numbers that a graph keeps: they differ from step to step, and no budget is so exact."""

Compile = bool | Mapping[str, Any]


def settled(prepared: Prepared, step: Step, compile_blocks: Compile = False) -> Prepared:
    """The plan that is fastest on the example, if its peak is within the budget there.

    Nothing is measured of fake tensors, of a step that does not fit without checkpoints, of one
    whose gradients are released, or by a strategy that has no candidates.

    Args:
        prepared: what the profile says.
        step: real steps of it run; gradients, buffers and random states are afterwards as before.
        compile_blocks: as in `strategies.apply`.

    Raises:
        Unsupported: no plan was found whose peak, as measured, is within the budget.
    """
    strategy, profile = prepared.strategy, prepared.chain.profile
    candidates = strategy.candidates(prepared.chain)
    fake = any(isinstance(parameter, FakeTensor) for parameter in prepared.model.parameters())
    if not candidates or not isinstance(strategy, Budgeted) or profile is None:
        return prepared
    released = isinstance(step, ExampleStep) and step.release_gradients
    if fake or profile.faked or released:  # which an unreleased step does not show
        return prepared
    settling = _Settling(prepared, strategy, profile, step, compile_blocks)
    chosen, note = settling.fastest(candidates)
    within, notes = settling.within(chosen)
    plan = settling.under(within, (*note, *notes))
    others = () if compile_blocks else strategy.wholes(prepared.chain)
    return or_whole(plan, others, step, profile, settling.budget_bytes)


@dataclasses.dataclass(frozen=True)
class _Settling:
    prepared: Prepared
    strategy: Budgeted
    profile: ChainProfile
    step: Step
    compile_blocks: Compile
    peaks: dict[Schedule, int] = dataclasses.field(default_factory=dict)
    """Measured before the clock ran, in bytes, by what the step ran under."""

    @property
    def budget_bytes(self) -> int:
        """Of the peak."""
        return budgets.resolve(self.strategy.budget, self.profile)

    @property
    def others(self) -> Sequence[str]:
        """Notes that are not of the plan."""
        of_plan = self.strategy.planned(self.prepared.chain).notes
        return [note for note in self.prepared.notes if note not in of_plan]

    def under(self, planned: Planned, notes: Sequence[str] = ()) -> Prepared:
        """The model prepared for another plan."""
        return dataclasses.replace(
            self.prepared,
            schedule=planned.schedule.split(self.prepared.chain.borders),
            prediction=planned.prediction,
            notes=[*planned.notes, *self.others, *notes],
        )

    def fastest(self, candidates: Sequence[Planned]) -> tuple[Planned, Sequence[str]]:
        """By the profile and the clock together: the simplest, or one that should be faster."""
        simplest, *others = candidates  # what is not in the profile is on the side of the simplest
        limit_s = _limit_s(_predicted_s(simplest))
        faster = sorted((one for one in others if _predicted_s(one) < limit_s), key=_predicted_s)
        if not faster:
            return simplest, ()
        contenders = (simplest, *faster[:CONTENDERS])
        installs, expected_s = map(self._install, contenders), _expected_s(contenders)
        first = functools.partial(self._watch, simplest)
        times = trial.seconds(self.step, list(installs), expected_s, first=first)
        chosen = contenders[trial.fastest(times, expected_s)]
        return chosen, (_timed(contenders, times, chosen),)

    def _watch(self, planned: Planned) -> None:
        """A step of one that is installed, whose peak is noted."""
        self.peaks[planned.schedule] = trial.passing_peak_bytes(self.step, self.profile)

    def _install(self, planned: Planned) -> trial.Install:
        return functools.partial(self.under(planned).install, self.compile_blocks)

    def within(self, planned: Planned) -> tuple[Planned, Sequence[str]]:
        """This plan, or a tighter one, whose measured peak is within the budget."""
        budget_bytes = room_bytes = self.budget_bytes
        for _ in range(ATTEMPTS):
            peak_bytes = self._peak_bytes(planned)
            if peak_bytes <= budget_bytes + NUMBERS_BYTES:
                return planned, (measured(peak_bytes, budget_bytes),)
            room_bytes -= peak_bytes - budget_bytes
            planned = self._tighter(planned, room_bytes, peak_bytes)
        raise self._refusal(budget_bytes, peak_bytes)

    def _peak_bytes(self, planned: Planned) -> int:
        """Of a second step, where the first is above the budget: what is made once is in it."""
        known_bytes = self.peaks.get(planned.schedule)
        if known_bytes is not None and known_bytes <= self.budget_bytes:
            return known_bytes
        with installed(self._install(planned)):
            peak_bytes = trial.peak_bytes(self.step, self.profile)
            if peak_bytes <= self.budget_bytes:
                return peak_bytes
            return min(peak_bytes, trial.peak_bytes(self.step, self.profile))

    def _tighter(self, planned: Planned, room_bytes: int, peak_bytes: int) -> Planned:
        """A plan of the same kind for less."""
        strategy = dataclasses.replace(self.strategy, budget=str(max(1, room_bytes)))
        try:
            candidates = strategy.candidates(self.prepared.chain)
        except Unsupported as error:
            raise self._refusal(self.budget_bytes, peak_bytes) from error
        alike = [one for one in candidates if _description(one) == _description(planned)]
        return next(iter([*alike, *candidates]))

    def _refusal(self, budget_bytes: int, peak_bytes: int) -> Unsupported:
        return Unsupported(
            f"{self.strategy.spec()}: a step on the example takes {peak_bytes:,} bytes, as"
            f" measured, of a budget of {budget_bytes:,}, and no tighter plan was found; give"
            f" {peak_bytes - budget_bytes:,} bytes more, or a smaller batch"
        )


def _timed(contenders: Sequence[Planned], times: Sequence[Sequence[float]], chosen: Planned) -> str:
    """What all but the one that is taken, which is in every round, take beside it; by kind."""
    base_s = times[contenders.index(chosen)]
    ratios: dict[str, list[float]] = collections.defaultdict(list)
    for one, its in zip(contenders, times, strict=True):
        if one is not chosen:
            ratios[_description(one)].append(sum(its) / sum(base_s[: len(its)]))
    others = " and ".join(
        f"{_named(kind, len(own), like=kind == _description(chosen))} takes {min(own):.2f} ×"
        for kind, own in ratios.items()
    )
    return f"timed on the example, in {len(base_s)} rounds: {others}"


def _named(kind: str, count: int, *, like: bool) -> str:
    """Plans of one kind, of which the best is meant; ``like``: the one that is taken is another."""
    if count == 1:
        return f"{'another' if like else 'the'} plan {kind}"
    return f"the best of {count} {'other ' if like else ''}plans {kind}"


def _description(planned: Planned) -> str:
    if planned.schedule.offloaded:
        return "that sends boundaries away"
    if planned.schedule.sends:
        return "that sends outputs of chosen operators away"
    return "in which no operators are chosen" if _is_plain(planned) else "of chosen operators"


def _limit_s(simplest_s: float) -> float:
    """What takes less than that should be faster than the simplest plan, and is worth timing."""
    return simplest_s * (1 - GAIN if simplest_s >= LONG_S else 1)


def _predicted_s(planned: Planned) -> float:
    assert planned.prediction is not None
    return planned.prediction.step_s


def _expected_s(contenders: Sequence[Planned]) -> list[float]:
    """By the profile; of a plan that dispatches operators no less than of the best that does not.

    That costs more than the profile knows of: whether it is faster is the clock's to say.
    """
    others = (one for one in contenders if not _is_dispatched(one))
    least_s = min(map(_predicted_s, others), default=0.0)
    floors_s = (least_s if _is_dispatched(one) else 0.0 for one in contenders)
    return list(map(max, map(_predicted_s, contenders), floors_s))


def _is_dispatched(planned: Planned) -> bool:
    return any(kept_by(mode) is not None for mode in planned.schedule.modes)


def _is_plain(planned: Planned) -> bool:
    return set(planned.schedule.modes) <= {ALL}
