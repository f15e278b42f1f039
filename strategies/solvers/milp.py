"""The fastest nested plan of a short chain, as a mixed-integer programme: an oracle.

Jain et al. 2020 («Checkmate», arXiv 1910.02653, §4) at block level: stage t ends with the backward
of block t, ``runs[t, i]`` says that block i runs forward in it, and what is kept from stage to
stage is a variable too. Two things are added. A kept boundary and a block's own saved tensors are
kept apart, since a block of PyTorch holds more than its output; and what is kept stays until its
backward (the paper's schedules may drop it earlier and make it again), for that is what nested
checkpoints can run. So the optimum is that of `optimal`, by other means, and byte-exact: no slots.

Bytes are counted in the largest size that divides all of them, with room for half of one. A chain
whose sizes differ by more than nine digits leaves the solver's tolerance more than that: a schedule
that the interpreter finds to be over the budget is then excluded, and the next best is sought. The
interpreter has the last word.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from strategies.schedules.interpreter import predict
from strategies.schedules.plan import Node, plain
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import ALL, Schedule
from strategies.schedules.solution import Solution

if TYPE_CHECKING:
    from strategies.solvers.milp_programme import Programme

MOST_BLOCKS = 12
"""Beyond this, branch and bound takes minutes where blocks are equal and can be exchanged."""


def too_long(blocks: int) -> str | None:
    """Why a chain is refused, or ``None``."""
    if blocks <= MOST_BLOCKS:
        return None
    return f"the mixed-integer programme is for at most {MOST_BLOCKS} blocks, not {blocks}"


@functools.lru_cache(maxsize=64)
def solve(profile: ChainProfile, budget_bytes: int) -> Solution | None:
    """The nested schedule that repeats least within a budget, or ``None`` if nothing fits.

    Args:
        profile: with times, of at most `MOST_BLOCKS` blocks.
        budget_bytes: of the peak, everything included.

    Raises:
        ValueError: too many blocks.
    """
    _check(profile)
    if _fixed_bytes(profile) > budget_bytes:
        return None
    programme = _programme(profile, budget_bytes)
    while (bound := _minimum(programme)) is not None:
        schedule = _schedule(programme)
        predicted = predict(profile, schedule)
        if predicted.peak_bytes <= budget_bytes:
            bound_s = max(0.0, bound * programme.second)
            return Solution(schedule, min(bound_s, predicted.recompute_s))
        _exclude(programme)
    return None


@functools.lru_cache(maxsize=64)
def smallest_bytes(profile: ChainProfile) -> int:
    """The smallest peak of all nested plans: the same programme, with the peak to be minimised.

    Args:
        profile: of at most `MOST_BLOCKS` blocks; times do not matter.

    Raises:
        ValueError: too many blocks.
    """
    _check(profile)
    peak_bytes = predict(profile, plain(len(profile.blocks))).peak_bytes
    programme = _programme(profile, peak_bytes, smallest=True)
    if _minimum(programme) is not None:
        peak_bytes = min(peak_bytes, predict(profile, _schedule(programme)).peak_bytes)
    while peak_bytes > _fixed_bytes(profile):  # the minimum is within the solver's tolerance
        solution = solve(profile, peak_bytes - 1)
        if solution is None:
            break
        peak_bytes = predict(profile, solution.schedule).peak_bytes
    return peak_bytes


def _check(profile: ChainProfile) -> None:
    reason = too_long(len(profile.blocks))
    if reason:
        raise ValueError(reason)


def _programme(profile: ChainProfile, budget_bytes: int, *, smallest: bool = False) -> Programme:
    """The programme, with what the head keeps and what is alive throughout taken from its room."""
    from strategies.solvers.milp_programme import Programme  # noqa: PLC0415 - brings a solver

    alive_bytes = profile.resident_bytes + profile.head_saved_bytes
    return Programme(profile, budget_bytes - alive_bytes, smallest=smallest)


def _fixed_bytes(profile: ChainProfile) -> int:
    """What head and update need, which no plan changes."""
    gradients_bytes = profile.tail_gradient_bytes + sum(b.gradient_bytes for b in profile.blocks)
    kept_bytes = profile.head_saved_bytes + profile.input_bytes
    backward_bytes = gradients_bytes + kept_bytes + profile.head_backward_working_bytes
    update_bytes = gradients_bytes - profile.head_gradient_bytes + profile.update_working_bytes
    return profile.resident_bytes + max(profile.head_working_bytes, backward_bytes, update_bytes)


def _minimum(programme: Programme) -> float | None:
    """Solve it: the proven bound of the objective, or ``None`` if nothing fits."""
    import highspy  # noqa: PLC0415 - brings a solver

    model = programme.model
    model.minimize(programme.objective)
    status = model.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return None
    assert status == highspy.HighsModelStatus.kOptimal, model.modelStatusToString(status)
    return float(model.getInfo().mip_dual_bound)


def _exclude(programme: Programme) -> None:
    """Refuse the schedule that was found, and no other."""
    variables = [*programme.bare.values(), *programme.starts.values()]
    ones = [variable for variable in variables if _chosen(programme, variable)]
    zeros = [variable for variable in variables if not _chosen(programme, variable)]
    total = programme.model.qsum
    programme.require(total(ones) - total(zeros) <= len(ones) - 1)


# Reading the schedule.


def _schedule(programme: Programme) -> Schedule:
    modes = [ALL] * programme.count
    nodes = tuple(_nodes(programme, programme.count, (0, programme.count), modes))
    return Schedule(nodes, () if set(modes) == {ALL} else tuple(modes))


def _nodes(
    programme: Programme, t: int, stretch: tuple[int, int], modes: list[str]
) -> Iterator[Node]:
    """How the blocks of a stretch, its end not included, lie after stage t's forward."""
    begin, end = stretch
    while begin < end:
        mode = _mode(programme, t, begin)
        last = begin
        if mode is None:
            while last + 1 < end and not _chosen(programme, programme.begins(t, last + 1)):
                last += 1
            yield (*_nodes(programme, last, (begin, last), modes), last)
        else:
            modes[begin] = mode
            yield begin
        begin = last + 1


def _mode(programme: Programme, t: int, i: int) -> str | None:
    for m, mode in enumerate(programme.modes(i)):
        if _chosen(programme, programme.bare[t, i, m]):
            return mode.name
    return None


def _chosen(programme: Programme, variable: Any) -> bool:
    """The value of a binary variable, or of a sum of those."""
    return bool(programme.model.val(variable) > 0.5)
