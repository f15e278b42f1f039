"""The whole model under one strategy, measured beside the plan that was settled on."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

from strategies.contract.budgeted import CLOSE, measured
from strategies.contract.prepared import Prepared
from strategies.contract.strategy import Strategy
from strategies.execution.errors import in_a_line
from strategies.execution.undo import installed
from strategies.profiling import trial
from strategies.profiling.oom import is_out_of_memory
from strategies.profiling.step import Step, preserved, run_once
from strategies.schedules.plan import plain
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import Schedule

ROUNDS = 5
"""Of interleaved steps at most, where they are not so short that more are run anyway."""
WORTH = 0.02
"""Of a step: for less, the plan stays."""
COMPILING = 2
"""Steps in which a compiler may work: an argument's second value may show that it changes."""


def or_whole(
    prepared: Prepared,
    others: Sequence[Strategy],
    step: Step,
    profile: ChainProfile,
    budget_bytes: int,
) -> Prepared:
    """The first of ``others`` whose measured peak is in the budget, if it is faster than the plan.

    Args:
        prepared: the plan, settled on.
        others: for the whole model, those that should be faster first.
        step: real steps of it run; gradients, buffers and random states are afterwards as before.
        profile: of the model; what is resident is taken from it.
        budget_bytes: of the peak.
    """
    for other in others:
        whole = _whole(prepared, other)
        try:
            peak_bytes = _peak_bytes(whole, step, profile)
        except Exception as error:  # other people's code, and a compiler: this is its result
            if is_out_of_memory(error):
                raise
            return _noted(prepared, f"the whole model is not compiled: {in_a_line(error)}")
        if peak_bytes <= budget_bytes:
            return _faster(prepared, whole, step, peak_bytes, budget_bytes)
    return prepared


def _whole(prepared: Prepared, other: Strategy) -> Prepared:
    """The model under another strategy, in the place of a plan."""
    return dataclasses.replace(
        prepared,
        whole=other,
        schedule=Schedule(plain(len(prepared.chain))),
        storage=None,
        prediction=None,
    )


def _peak_bytes(whole: Prepared, step: Step, profile: ChainProfile) -> int:
    """Of a step after those that compile."""
    with installed(whole.install), preserved(step.model):
        for _ in range(COMPILING):
            run_once(step)
        return trial.passing_peak_bytes(step, profile)


def _faster(
    prepared: Prepared, whole: Prepared, step: Step, peak_bytes: int, budget_bytes: int
) -> Prepared:
    """The one that takes less time, with a note on the other."""
    installs = [prepared.install, whole.install]
    times = trial.seconds(step, installs, (1.0, 1.0), ROUNDS)
    ratio = statistics.median(theirs / own for own, theirs in zip(*times, strict=True))
    assert whole.whole is not None
    compared = f"{whole.whole.spec()} for the whole model takes {ratio:.2f} × the best plan"
    if ratio > 1 - WORTH:
        return _noted(prepared, compared)
    notes = [compared, measured(peak_bytes, budget_bytes), f"gradients {CLOSE}"]
    return dataclasses.replace(whole, notes=notes)


def _noted(prepared: Prepared, note: str) -> Prepared:
    return dataclasses.replace(prepared, notes=[*prepared.notes, note])
