"""Plans in the order of the table's times, until one keeps its budget: exact where the table isn't.

The table of `strategies.solvers.optimal` counts memory in slots and does not see who else holds a
tensor: it allows more than the interpreter does, and its times are lower bounds. Every plan that
keeps the budget is a way through it. So ways are followed best first (A*), by what they repeat so
far and, by the table, for what is left; the first whole plan that the interpreter lets pass is the
fastest of all. Where patience ends before, the next way's time bounds whatever is left.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import NamedTuple

from strategies.schedules.interpreter import predict
from strategies.schedules.schedule import Schedule
from strategies.solvers.optimal_solver import Choice, Solver, Stretch

PATIENCE = 20_000
"""Ways that are followed; a fraction of a second."""
ROUNDING = 1e-9
"""Part of a step: sums in another order are equal."""


class _Way(NamedTuple):
    """A plan, decided up to somewhere.

    Attributes:
        least_s: what it repeats, by the table for what is not decided.
        pending: what is not decided, what comes next first.
        depth: how many choices are made.
        last: the last of them, in the order of `Solver.read`.
        before: the way without it; ways share their beginnings.
    """

    least_s: float
    pending: tuple[Stretch, ...]
    depth: int = 0
    last: Choice | None = None
    before: _Way | None = None

    def choices(self) -> list[Choice]:
        """All, from the first."""
        way: _Way | None = self
        chosen = []
        while way is not None and way.last is not None:
            chosen.append(way.last)
            way = way.before
        return chosen[::-1]


def fastest(
    solver: Solver, budget_bytes: int, limit_s: float, patience: int
) -> tuple[Schedule | None, float]:
    """The fastest schedule within a budget, if it repeats less than so long.

    Args:
        solver: for that budget.
        budget_bytes: of the peak, by the interpreter.
        limit_s: what the best one known repeats; infinite, if there is none.
        patience: how many ways are followed.

    Returns:
        It, or ``None``; and seconds that no schedule within the budget repeats less than.
    """
    numbers, scale_s = itertools.count(), min(limit_s, solver.profile.plain_step_s) or 1.0
    begin = _Way(solver.bound_s(), (solver.whole(),))
    queue = [(0.0, 0, next(numbers), begin)]
    while queue:
        way = heapq.heappop(queue)[-1]
        if not way.pending:
            schedule = _read(solver, way)
            if predict(solver.profile, schedule).peak_bytes <= budget_bytes:
                return schedule, way.least_s * (1 - ROUNDING)
            continue
        for further in _further(solver, way):
            if further.least_s < limit_s * (1 - ROUNDING):
                # Of equal ones the one that is nearer to its end.
                place = (round(further.least_s / scale_s / ROUNDING), -further.depth)
                heapq.heappush(queue, (*place, next(numbers), further))
        if next(numbers) > patience:
            return None, min((way.least_s, *(entry[-1].least_s for entry in queue)))
    return None, limit_s


def _further(solver: Solver, way: _Way) -> Iterator[_Way]:
    """Every choice for what comes next."""
    stretch, *rest = way.pending
    others_s = way.least_s - solver.value(stretch)
    for cost_s, choice, parts in solver.choices(stretch):
        undecided = (part for part in parts if part.begin < part.end)
        yield _Way(others_s + cost_s, (*undecided, *rest), way.depth + 1, choice, way)


def _read(solver: Solver, way: _Way) -> Schedule:
    chosen = iter(way.choices())
    return solver.read(solver.whole(), lambda _: next(chosen))
