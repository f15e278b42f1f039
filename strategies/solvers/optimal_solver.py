"""The table of `strategies.solvers.optimal` for a profile and budget, and schedules out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from strategies.schedules.interpreter import predict
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import Schedule
from strategies.solvers import optimal_table
from strategies.solvers.optimal_numbers import numbers_of, slot_bytes_for
from strategies.solvers.optimal_stretches import stretches_of

Choice = tuple[str, int]
"""``bare`` and the mode's place among all blocks' modes, or ``group`` and its last block."""


class Stretch(NamedTuple):
    """Blocks to be run forward and backward.

    Attributes:
        held: 1 if somebody else holds the boundary that they begin with.
        begin: the first block.
        end: the last one; there is no choice for it.
        slots: of memory that are left, above what is alive by the position of ``end``.
    """

    held: int
    begin: int
    end: int
    slots: int


def fitting(
    profile: ChainProfile,
    budget_bytes: int,
    row: Any,
    start: int,
    schedule: Callable[[int], Schedule],
) -> Schedule | None:
    """The first schedule whose real peak is within the budget, from the largest start down.

    Args:
        profile: of the chain.
        budget_bytes: that the peak must not exceed.
        row: seconds by start; infinite where nothing fits.
        start: the largest.
        schedule: what the table says for a start.
    """
    low, high, best = int(np.argmax(np.isfinite(row))), start, None
    if not np.isfinite(row[high]):
        return None
    while low <= high:
        middle = high if high == start else (low + high) // 2
        candidate = schedule(middle)
        if predict(profile, candidate).peak_bytes <= budget_bytes:
            low, best = middle + 1, candidate
        else:
            high = middle - 1
    return best


class Solver:
    """The table for one profile and budget, and schedules read from it."""

    def __init__(self, profile: ChainProfile, budget_bytes: int, slots: int) -> None:
        self.profile = profile
        count = len(profile.blocks)
        total_bytes = max(1, budget_bytes - profile.resident_bytes - profile.head_saved_bytes)
        self.slot_bytes = slot_bytes_for(profile, total_bytes, slots)
        self.slots = -(-total_bytes // self.slot_bytes)
        room_bytes = max(0, total_bytes - profile.input_bytes)
        self.start = -(-room_bytes // self.slot_bytes)
        self.numbers = numbers_of(profile, self.slot_bytes)
        keeps = all(mode.keeps_input for block in profile.blocks for mode in block.modes)
        planes = 1 if keeps and profile.tail_keeps_input else 2
        self.held = int(profile.head_keeps_output) * (planes - 1)
        self.table = optimal_table.empty(planes, len(self.numbers.firsts), self.slots)
        optimal_table.filling(stretches_of(profile).work)(self.table, self.numbers)
        self.top = self.table[self.held, self.numbers.rows[0, count]]

    def bound_s(self) -> float:
        """The table's value for the whole budget."""
        return float(self.top[self.start])

    def fitting(self, budget_bytes: int) -> Schedule | None:
        """The first schedule whose real peak is within the budget, from the largest start down."""
        return fitting(self.profile, budget_bytes, self.top, self.start, self.schedule)

    def schedule(self, slots: int) -> Schedule:
        """Read the choices for a start of ``slots``."""
        return self.read(self.whole()._replace(slots=slots), self.cheapest)

    def read(self, whole: Stretch, choose: Callable[[Stretch], Choice]) -> Schedule:
        """The schedule of the chain, by a choice for the first block of each stretch, in order."""
        modes = list(self.profile.first_modes)
        return Schedule(tuple(self.nodes(whole, choose, modes)), tuple(modes))

    def nodes(
        self, stretch: Stretch, choose: Callable[[Stretch], Choice], modes: list[str]
    ) -> Iterator[Any]:
        """The nodes of a stretch, its modes written into ``modes``."""
        while stretch.begin < stretch.end:
            kind, which = choose(stretch)
            if kind == "bare":
                modes[stretch.begin] = self.mode_name(stretch.begin, which)
                yield stretch.begin
                stretch = self.behind(stretch, which)
            else:
                inside, stretch = self.apart(stretch, which)
                yield tuple(self.nodes(inside, choose, modes))
        if stretch.begin < len(self.profile.blocks):
            yield stretch.begin

    def inside_less(self, last: Any, end: int) -> Any:
        """As the table's function of that name, for one block or an array of them."""
        around = self.numbers.around_bytes
        return (self.numbers.group_own_bytes + around[last] - around[end]) // self.slot_bytes

    def mode_name(self, block: int, mode: int) -> str:
        """Of a mode by its place among all blocks' modes."""
        return self.profile.blocks[block].modes[mode - int(self.numbers.mode_begin[block])].name

    def whole(self) -> Stretch:
        """The chain, with the budget."""
        return Stretch(self.held, 0, len(self.profile.blocks), self.start)

    def value(self, stretch: Stretch) -> float:
        """What a stretch repeats at least, in seconds."""
        row = self.numbers.rows[stretch.begin, stretch.end]
        return float(self.table[stretch.held, row, stretch.slots])

    def choices(self, stretch: Stretch) -> Iterator[tuple[float, Choice, tuple[Stretch, ...]]]:
        """Of its first block: what is repeated at least, the choice, and what it leaves."""
        for cost_s, mode in self._bare_costs(stretch):
            yield cost_s, ("bare", mode), (self.behind(stretch, mode),)
        for cost_s, last in zip(*self._all_groups(stretch), strict=True):
            yield float(cost_s), ("group", int(last)), self.apart(stretch, int(last))

    def behind(self, stretch: Stretch, mode: int) -> Stretch:
        """What is left when the first block runs bare."""
        slots = min(stretch.slots - int(self.numbers.mode_taken[stretch.held, mode]), self.slots)
        held = min(int(self.numbers.mode_holds[mode]), self.table.shape[0] - 1)
        return Stretch(held, stretch.begin + 1, stretch.end, slots)

    def apart(self, stretch: Stretch, last: int) -> tuple[Stretch, Stretch]:
        """A group to that block, when it runs again, and what is behind it."""
        _, begin, end, slots = stretch
        own = min(slots - int(self.inside_less(last, end)), self.slots)
        behind = slots - int(self.numbers.group_taken[last])
        inside = Stretch(self.table.shape[0] - 1, begin, last, own)
        return inside, Stretch(0, last + 1, end, behind)

    def cheapest(self, stretch: Stretch) -> Choice:
        """The choice that the table's value came from: the cheapest, worked out again."""
        choices = [(cost_s, ("bare", mode)) for cost_s, mode in self._bare_costs(stretch)]
        costs, ends = self._all_groups(stretch)
        if len(ends):  # of groups as cheap the shortest
            best = int(np.argmin(costs))
            choices.append((float(costs[best]), ("group", int(ends[best]))))
        return min(choices, key=lambda choice: choice[0])[1]

    def _bare_costs(self, stretch: Stretch) -> Iterator[tuple[float, int]]:
        """Of each mode of the first block that fits: seconds, and the mode."""
        n, count, (held, begin, end, slots) = self.numbers, len(self.profile.blocks), stretch
        repeated = 0.0 if end == count else n.forward_s[begin]
        modes = n.mode_begin[begin + 1] if end == count else n.mode_begin[begin] + 1
        for mode in range(n.mode_begin[begin], modes):
            back_bytes = n.around_bytes[begin] - n.around_bytes[end]
            back_bytes += n.mode_backward_bytes[held, mode]
            need = max(int(n.mode_forward[mode]), int(back_bytes // self.slot_bytes))
            if slots >= max(need, n.mode_taken[held, mode]):
                rest_s = self.value(self.behind(stretch, mode))
                yield float(rest_s + repeated + n.mode_s[mode]), mode

    def _all_groups(self, stretch: Stretch) -> tuple[Any, Any]:
        """Seconds and last blocks of all groups that fit; all lengths at once."""
        n, count, inside = self.numbers, len(self.profile.blocks), self.table.shape[0] - 1
        _, begin, end, slots = stretch
        ends = np.arange(begin, min(end, n.reach[begin] + 1))
        working = np.where(ends == begin, n.unsaved_first[ends], n.unsaved_next[ends])
        less = self.inside_less(ends, end)
        need = np.maximum(np.maximum.accumulate(working), n.group_taken[ends])
        fits = slots >= np.maximum(need, less)
        repeated, ends = np.cumsum(n.forward_s[ends])[fits], ends[fits]
        left = np.minimum(slots - less[fits], self.slots)
        rest = self.table[0, n.rows[ends + 1, end], slots - n.group_taken[ends]].astype(float)
        own = self.table[inside, n.rows[begin, ends], left].astype(float)
        return rest + own + repeated * (end < count), ends
