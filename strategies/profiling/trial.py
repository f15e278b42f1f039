"""A real step on the device that is here: what it needs, and which of several is the fastest."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from strategies.execution.undo import Undo, installed
from strategies.profiling.allocator import AllocatorTrace
from strategies.profiling.block_times import now_s
from strategies.profiling.standing import begin_anew, standing
from strategies.profiling.step import ExampleStep, Step, preserved, run_once
from strategies.schedules.profile import ChainProfile

Install = Callable[[], Iterable[Undo]]
ROUNDS = 2
"""Of interleaved steps, at most."""
SHORT_S = 1.0
"""Until so many seconds are spent more rounds follow: whatever else runs disturbs short steps."""
SHORT_ROUNDS = range(5, 13)
"""Of these: before the first of them nobody leaves, and the last is the last."""
DOUBT = 0.06
"""Part of a step by which a clock that is read once may be off."""
CLEAR = 0.03
"""Of one that is faster than all others by that part of a step, no further round is needed."""


def peak_bytes(step: Step, profile: ChainProfile) -> int:
    """Most allocated in a step of a model as it stands, by the device's own allocator.

    The optimizer's update is counted as the profile has it, for weights stay what they are.

    Args:
        step: of a model under a plan; gradients, buffers and random states stay what they were.
        profile: of that model; what is there at the start is taken from it.
    """
    with preserved(step.model):
        return passing_peak_bytes(step, profile)


def passing_peak_bytes(step: Step, profile: ChainProfile) -> int:
    """The same; gradients, buffers and random states change."""
    is_cpu = step.device.type == "cpu"
    if getattr(step, "renews", False):
        begin_anew(step)  # what stood before is put back afterwards, and so does not go
    elif not _has_begun(step, is_cpu=is_cpu):
        _begin(step)
    step.drop_gradients()
    gc.collect()
    peak, end = _cpu(step) if is_cpu else _accelerator(step)
    return profile.start_bytes + max(peak, end + profile.update_working_bytes)


def _has_begun(step: Step, *, is_cpu: bool) -> bool:
    """Whether the loop holds an output; on a CPU it is enough to know of how many bytes."""
    return isinstance(step, ExampleStep) and bool(step.output or (is_cpu and step.held))


def _begin(step: Step) -> None:
    """Have the loop hold an output, and an accelerator's libraries the workspaces of backward."""
    if step.device.type == "cpu":
        step.drop_gradients()
        step.forward()
    else:
        run_once(step)


def _cpu(step: Step) -> tuple[int, int]:
    """Most allocated, and what is at the end, above what was before."""
    with AllocatorTrace() as trace:
        if isinstance(step, ExampleStep):
            step.renew_output()  # what was there before the trace is let go unseen
        trace.follow(standing(step))
        trace.mark("begin")
        step.backward(step.forward())
        trace.mark("end")
    return trace.working_bytes("begin", "end"), trace.gained_bytes("begin", "end")


def _accelerator(step: Step) -> tuple[int, int]:
    memory: Any = torch.accelerator.memory
    torch.accelerator.synchronize()
    memory.reset_peak_memory_stats()
    before_bytes = memory.memory_allocated()
    step.backward(step.forward())
    torch.accelerator.synchronize()
    most_bytes = memory.max_memory_allocated()
    return most_bytes - before_bytes, memory.memory_allocated() - before_bytes


def seconds(
    step: Step,
    contenders: Sequence[Install],
    expected_s: Sequence[float],
    rounds: int = ROUNDS,
    first: Callable[[], object] | None = None,
) -> list[list[float]]:
    """Time of a step under each contender, interleaved, after one that is not counted.

    In that one memory is new, and blocks that run again are examined (`execution.examined`). Of
    every other round the order is reversed, so that whoever was last is first: unless steps are
    short, its step counts for both rounds.

    Args:
        step: of the model as it is; it stays so.
        contenders: each puts the model under a plan.
        expected_s: what a step should take under each.
        rounds: at most; fewer, where it is clear before, and more, where steps are short. After
            each the fastest goes on, and the next one, if it is not clearly slower.
        first: runs the step that is not counted, under the first contender, for whoever wants to
            know more of it. (What is watched is no time: traces cost more the more is allocated.)

    Returns:
        For each contender its seconds, by round.
    """
    times: list[list[float]] = [[] for _ in contenders]
    last, is_short = 0, True
    playing = [*range(1, len(contenders)), last]

    def timed(index: int, number: int) -> float:
        if index == last and number and not is_short:
            return times[index][-1]
        with installed(contenders[index]):
            return _time(step)

    with frozen(), preserved(step.model):
        with installed(contenders[0]):
            first() if first else run_once(step)
        for number in itertools.count():
            for index in reversed(playing) if number % 2 else playing:
                times[index].append(timed(index, number))
                last = index
            is_short = math.fsum(itertools.chain(*times)) < SHORT_S
            if is_short and number + 1 < SHORT_ROUNDS.start:
                continue
            near = _near(times, expected_s)
            if len(near) < 2 or number + 1 >= (SHORT_ROUNDS[-1] if is_short else rounds):
                break
            playing = [index for index in playing if index in near]
        step.drop_gradients()
    return times


@contextlib.contextmanager
def frozen() -> Iterator[None]:
    """Collections of garbage, which steps are preceded by, pass by whatever there is already.

    That is most of Python's objects, and looking at them takes longer than many a step. Of a
    process that froze something itself nothing is: it could not be told apart afterwards.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _near(times: Sequence[Sequence[float]], expected_s: Sequence[float]) -> list[int]:
    """The fastest, and the next one, if it is not clear which of them is; of those who are left."""
    estimates = _estimates(times, expected_s)
    first, *others = sorted(estimates, key=lambda index: estimates[index])
    return [first, *(one for one in others[:1] if estimates[one] - estimates[first] < CLEAR)]


def _estimates(times: Sequence[Sequence[float]], expected_s: Sequence[float]) -> dict[int, float]:
    """Of all in the last round, logarithms of a step's time over that of the first one of them.

    The profile counts as one round: a clock read once or twice is off by a few percent, as a
    profile is. By more only a profile is, which does not know what it costs to dispatch an
    operator; so its say is bounded.
    """
    count = max(map(len, times))
    present = [index for index, own in enumerate(times) if len(own) == count]
    base, estimates = present[0], {}
    for index in present:
        pairs = zip(times[index], times[base], strict=True)
        measured = statistics.median(math.log(one / first) for one, first in pairs)
        more = math.log(expected_s[index] / expected_s[base]) - measured
        estimates[index] = measured + max(-DOUBT, min(more, DOUBT)) / (1 + count)
    return estimates


def _time(step: Step) -> float:
    """Seconds of a step that begins as it should."""
    step.drop_gradients()
    begin_s = now_s(step.device)
    step.backward(step.forward())
    return now_s(step.device) - begin_s


def fastest(times: Sequence[Sequence[float]], expected_s: Sequence[float]) -> int:
    """The contender that takes the least, as measured and as expected, of those who did not leave.

    Args:
        times: seconds of each, by round; of equal ones the first is taken.
        expected_s: of each.
    """
    return _near(times, expected_s)[0]
