"""The table of `strategies.solvers.hybrid` for one weight, and the schedules read from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from strategies.schedules.schedule import Schedule
from strategies.solvers import optimal_solver
from strategies.solvers.hybrid_numbers import roads_of


class Choice(NamedTuple):
    """One step along the chain: what it costs with the rest, and the state behind it."""

    cost_s: float
    road: int
    held: int
    end: int
    taken: int
    mode: int = -1
    leaves: bool = False


class Solver:
    """The table for one weight, and schedules read from it."""

    def __init__(self, inside: optimal_solver.Solver, weight: float) -> None:
        from strategies.solvers import hybrid_table  # noqa: PLC0415 - compiles

        self.compiled, self.profile, self.inside = hybrid_table, inside.profile, inside
        self.numbers, self.count = inside.numbers, len(inside.profile.blocks)
        roads = roads_of(self.profile, inside.slot_bytes)
        self.task = hybrid_table.Task(inside.table, self.numbers, roads, weight)
        self.held = int(self.profile.head_keeps_output)
        planes = 1 + max(self.held, int(self.numbers.mode_holds.max()))
        self.table = hybrid_table.empty(planes, self.count, inside.slots)
        hybrid_table.fill(self.table, self.task)

    @property
    def row(self) -> Any:
        """The table's values for all blocks, by slots."""
        return self.table[0, self.held, 0]

    def bound_s(self) -> float:
        """The table's value for the whole budget."""
        return float(self.row[self.inside.start])

    def fitting(self, budget_bytes: int) -> Schedule | None:
        """The first schedule whose real peak is within the budget, from the largest start down."""
        start = self.inside.start
        return optimal_solver.fitting(self.profile, budget_bytes, self.row, start, self.schedule)

    def schedule(self, slots: int) -> Schedule:
        """Read the choices for a start of ``slots``."""
        modes, offloaded = list(self.profile.first_modes), set()
        nodes: list[Any] = []
        road, held, begin = 0, self.held, 0
        while begin < self.count:
            choice = min(self._choices(road, held, begin, slots), key=lambda option: option.cost_s)
            nodes.append(self._node(choice, begin, slots, modes))
            if choice.leaves:
                offloaded.add(begin)
            slots = min(slots - choice.taken, self.inside.slots)
            road, held, begin = choice.road, choice.held, choice.end
        return Schedule(tuple(nodes), tuple(modes), frozenset(offloaded), self.profile.link_tier)

    def _node(self, choice: Choice, begin: int, slots: int, modes: list[str]) -> Any:
        if choice.mode >= 0:
            modes[begin] = self.inside.mode_name(begin, choice.mode)
            return begin
        plane, last = self.inside.table.shape[0] - 1, choice.end - 1
        stretch = optimal_solver.Stretch(plane, begin, last, self._inside(last, slots))
        return tuple(self.inside.nodes(stretch, self.inside.cheapest, modes))

    def _inside(self, last: int, slots: int) -> int:
        """Room inside a group that ends at ``last``; no more than the table knows of."""
        return min(slots - int(self.inside.inside_less(last, self.count)), self.inside.slots)

    def _choices(self, road: int, held: int, begin: int, slots: int) -> Iterator[Choice]:
        """All choices that fit, as the table makes them, with their rest.

        One choice is soon worked out, but not soon handed to compiled code: hence ``py_func``.
        """
        bare = self._bare(road, held, begin, slots)
        for choice in itertools.chain(bare, self._groups(road, held, begin, slots)):
            left = min(slots - choice.taken, self.inside.slots)
            rest_s = float(self.table[choice.road, choice.held, choice.end, left])
            yield choice._replace(cost_s=choice.cost_s + rest_s)

    def _bare(self, road: int, held: int, begin: int, slots: int) -> Iterator[Choice]:
        n, leaving = self.numbers, self.compiled.leaving_slots.py_func(self.task, road)
        share = self.compiled.share.py_func(self.task, road)
        for mode in range(n.mode_begin[begin], n.mode_begin[begin + 1]):
            need = max(n.mode_forward[mode] + leaving, n.mode_backward[held, mode])
            taken = int(n.mode_taken[held, mode])
            if slots >= max(need, taken):
                plane = min(int(n.mode_holds[mode]), self.table.shape[1] - 1)
                yield Choice(share * float(n.mode_s[mode]), road, plane, begin + 1, taken, mode)

    def _groups(self, road: int, held: int, begin: int, slots: int) -> Iterator[Choice]:
        n, need, leaving = self.numbers, 0, self.compiled.leaving_slots.py_func(self.task, road)
        share = self.compiled.share.py_func(self.task, road)
        plane = self.inside.table.shape[0] - 1
        for last in range(begin, n.reach[begin] + 1):
            need = max(need, n.unsaved_first[last] if last == begin else n.unsaved_next[last])
            own = self._inside(last, slots)
            if own < 0:
                continue
            repeated_s = float(self.inside.table[plane, n.rows[begin, last], own])
            stays = Choice(share * repeated_s, road, 0, last + 1, int(n.group_taken[last]))
            if slots >= max(need + leaving, stays.taken):
                yield stays
            if road <= self.count and not held and self.task.roads.may_leave[begin]:
                departures = self._leaving(road, begin, stays)
                back = stays.taken - departures[0].taken
                yield from (c for c in departures if slots >= max(need - back, c.taken))

    def _leaving(self, road: int, begin: int, stays: Choice) -> tuple[Choice, Choice]:
        """The same group with its boundary away, others to follow or not."""
        back = int(self.task.roads.up[road - 1]) if road else 0
        waits_s = self.compiled.stall_s.py_func(self.task, road - 1, begin, stays.end - 1)
        more = stays._replace(
            cost_s=stays.cost_s + waits_s, road=1 + begin, taken=stays.taken - back, leaves=True
        )
        last = more._replace(
            cost_s=more.cost_s + self.compiled.last_stall_s.py_func(self.task, begin),
            road=1 + self.count + begin,
            taken=more.taken - int(self.task.roads.up[begin]),
        )
        return more, last
