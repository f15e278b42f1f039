"""Which operators' outputs to keep, block by block: an exact 0/1 programme on the peak.

Every block runs either as it is (autograd keeps what it needs) or under a checkpoint of its own, in
which some operators' outputs are kept and the rest run again. What is kept in the blocks before is
alive at every moment of those that follow; so each moment of each block, in forward and in
backward, is one linear constraint on the choices. Peaks, not sums: what the last block keeps is
free where its own backward needs as much anyway.

Solved by HiGHS (Huangfu and Hall 2018). Bytes are scaled to powers of two, and a solution that the
interpreter finds over the budget, by rounding or by scratch memory that no moment shows, is sought
again with less room.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.modes import PS, Moment, keep
from strategies.schedules.profile import BlockCost, ChainProfile
from strategies.schedules.schedule import ALL, Schedule
from strategies.schedules.solution import Solution
from strategies.solvers import highs, leanest, optimal
from strategies.solvers.selective_ops_casts import HeldCasts
from strategies.solvers.selective_ops_tensors import (
    Choices,
    backward_moments,
    forward_moments,
    is_between,
    tensors_of,
)

GAP = 1e-3
"""Of the repeated time: at this relative gap the programme is taken as solved. Equal blocks can be
exchanged in many ways, and ruling all of them out takes long. Or at a tenth of it, of the step:
where little is repeated, a thousandth of that is nothing."""
MOST_NODES = 500
"""Of the search; beyond, the best found so far is taken, with its proven gap."""


@functools.lru_cache(maxsize=64)
def solve(profile: ChainProfile, budget_bytes: int, gap: float = GAP) -> Solution | None:
    """The choice of operators that repeats least within a budget, or ``None``.

    Args:
        profile: with times and operators; a block without operators is kept whole or not at all.
        budget_bytes: of the peak, everything included.
        gap: see `GAP`.
    """
    solution = _solved(profile, budget_bytes, gap)
    if solution or not optimal.fixed_terms_fit(profile, budget_bytes):
        return solution
    return leanest.within(profile, _leanest(profile), budget_bytes)


@functools.lru_cache(maxsize=64)
def bound_s(profile: ChainProfile, budget_bytes: int) -> float:
    """No choice within a budget repeats less; infinite: none fits. For where `solve` gives up."""
    if not optimal.fixed_terms_fit(profile, budget_bytes):
        return math.inf
    programme = Programme(profile, budget_bytes, GAP)
    programme.solved()
    return programme.bound_s()


def _solved(profile: ChainProfile, budget_bytes: int, gap: float = GAP) -> Solution | None:
    """What the programme finds; by its own rounding it misses a schedule that just fits."""
    return within(profile, budget_bytes, lambda room: Programme(profile, room, gap).solved())


def within(
    profile: ChainProfile,
    budget_bytes: int,
    solved: Callable[[int], tuple[Schedule, float] | None],
) -> Solution | None:
    """What ``solved`` finds in a room that is made smaller until its answer is within the budget.

    Args:
        profile: that peaks are predicted by.
        budget_bytes: of the peak.
        solved: a schedule and a bound for a room in bytes, or ``None``.
    """
    room_bytes, bound_s = budget_bytes, None
    for attempt in itertools.count():
        optimum = solved(room_bytes)
        if optimum is None:
            return None
        bound_s = optimum[1] if bound_s is None else bound_s
        over_bytes = predict(profile, optimum[0]).peak_bytes - budget_bytes
        if over_bytes <= 0:
            return Solution(optimum[0], bound_s)
        room_bytes -= over_bytes << attempt  # what it does not see may be larger with less room
    raise AssertionError


@functools.lru_cache(maxsize=64)
def smallest_bytes(profile: ChainProfile) -> int:
    """The smallest peak that `solve` finds a schedule for."""
    return predict(profile, _leanest(profile)).peak_bytes


@functools.lru_cache(maxsize=64)
def _leanest(profile: ChainProfile) -> Schedule:
    """Whole blocks, or none: what a policy keeps of one is alive longer, and lowers no peak.

    But for the random state of the group that it is instead, which counts in its forward only.
    """
    count = len(profile.blocks)
    simple = (Schedule(plans.plain(count)), Schedule(plans.uniform(count, 1)))
    blocks = tuple(dataclasses.replace(block, operators=None) for block in profile.blocks)
    bare = dataclasses.replace(profile, blocks=blocks)
    return leanest.search(profile, simple, functools.partial(_solved, bare), steady=True)


class Programme:
    """Variables and constraints.

    Attributes:
        choices: [i] of block i.
        boundaries: [i] boundary i.
        passed: tensors with other readers: their place alone does not say when they are alive.
        below: [i] bytes that blocks before i keep, `passed` aside, in the programme's unit.
        casts: what autocast holds besides.
    """

    def __init__(self, profile: ChainProfile, budget_bytes: int, gap: float) -> None:
        self.profile, self.count, self.budget_bytes = profile, len(profile.blocks), budget_bytes
        self.room = float(budget_bytes - profile.resident_bytes - profile.head_saved_bytes)
        self.unit = 2.0 ** math.frexp(max(1.0, self.room))[1]
        self.second = max(block.last_recompute_s for block in profile.blocks) or 1.0
        gaps = {"mip_rel_gap": gap, "mip_abs_gap": gap / 10 * profile.plain_step_s / self.second}
        self.model = highs.new_model(**gaps, mip_max_nodes=MOST_NODES)
        self.choices = [self.choices_of(block) for block in profile.blocks]
        tensors = list(tensors_of(profile, self.choices, self.model))
        self.boundaries = tensors[: self.count + 1]
        self.passed = [tensor for tensor in tensors if tensor.life in profile.shared]
        self.below = [self.part(0)]
        self.casts = HeldCasts(profile, self.part, self._sum)
        for index in range(self.count):
            self.couple(index)
            self.below.append(self._sum([self.below[index], *self.saved(index)]))
            self.casts.follow(index, self.choices[index].whole)
            if not is_between(index, self.choices, self.passed):
                self._fit(index)
        self._fit_tail()

    def choices_of(self, block: BlockCost) -> Choices:
        """The variables of one block."""
        operators = enumerate(block.operators.operators if block.operators else ())
        whole = self.model.addBinary()
        return Choices(whole, {j: self.model.addBinary() for j, op in operators if op.keepable})

    def require(self, constraint: Any) -> None:
        """One constraint."""
        self.model.addConstr(constraint)

    def _sum(self, terms: list[Any]) -> Any:
        """A variable in place of a sum that many constraints share."""
        variable = self.model.addVariable(-math.inf, math.inf)
        self.require(variable == highs.total(terms))
        return variable

    def couple(self, index: int) -> None:
        """A whole block keeps no single outputs; random operators run again in order."""
        if any(self.choices[index] is said for said in self.choices[:index]):
            return  # of all blocks that choose alike
        kept, operators = self.choices[index].kept, self.profile.blocks[index].operators
        for variable in kept.values():
            self.require(variable + self.choices[index].whole <= 1)
        random = [i for i, op in enumerate(operators.operators) if op.random] if operators else []
        for first, second in itertools.pairwise(random):
            if first in kept:
                self.require(kept[first] <= kept.get(second, 0))

    def part(self, size_bytes: float, variable: Any = 1.0) -> Any:
        """Bytes in the programme's unit, if ``variable``."""
        return (size_bytes / self.unit) * variable

    def saved(self, index: int) -> Iterator[Any]:
        """What block ``index`` keeps between forward and backward, and its input."""
        block, whole = self.profile.blocks[index], self.choices[index].whole
        yield self.part(block.modes[0].saved_bytes, whole)
        yield self.part(self.profile.group_bytes + block.copies_bytes, 1 - whole)
        yield from self._plain_at(index, index)
        for number, variable in self.choices[index].kept.items():
            assert block.operators is not None
            yield self.part(block.operators.operators[number].output_bytes, variable)

    def _plain_at(self, place: int, index: int) -> Iterator[Any]:
        """A boundary in backward of a block, if nobody but the chain has to do with it."""
        tensor = self.boundaries[place]
        if tensor not in self.passed:
            yield self.part(tensor.size_bytes, tensor.in_backward(index))

    def before(self, position: int) -> list[Any]:
        """Alive as a block is entered, its input aside; or at the end of forward, the last one."""
        own = min(position, self.count)
        others = (tensor for tensor in self.passed if tensor.life.boundary != own)
        return [
            self.below[own],
            *self.casts.before(own),
            *(self.part(tensor.size_bytes, tensor.in_forward(position)) for tensor in others),
        ]

    def behind(self, index: int) -> list[Any]:
        """Alive in backward of a block, its own saved tensors aside; or of the tail."""
        places = range(index, min(index + 2, self.count + 1))
        return [
            self.below[index],
            *itertools.chain.from_iterable(self._plain_at(place, index) for place in places),
            *(self.part(tensor.size_bytes, tensor.in_backward(index)) for tensor in self.passed),
        ]

    def _within(self, *terms: Any) -> None:
        self.require(highs.total(terms) <= self.room / self.unit)

    def _fit(self, index: int) -> None:
        """Block ``index`` in forward, where it is on top of all before it, and in backward."""
        profile, block, whole = self.profile, self.profile.blocks[index], self.choices[index].whole
        mode, own_bytes = block.modes[0], profile.group_bytes + block.copies_bytes
        base = self._sum([*self.before(index), self.part(profile.boundary_bytes(index))])
        self._within(base, self.part(mode.forward_working_bytes, whole))
        for moment in forward_moments(block):
            self._within(base, *self._moment(index, moment, 0))
        base = self._sum([*self.behind(index), self.part(self.around_bytes(index))])
        self._within(base, self.part(mode.saved_bytes + mode.backward_working_bytes, whole))
        for moment in backward_moments(block):
            self._within(base, *self._moment(index, moment, own_bytes))

    def _moment(self, index: int, moment: Moment, own_bytes: int) -> Iterator[Any]:
        """What is alive at a moment of a block under its own checkpoint."""
        choices = self.choices[index]
        yield self.part(moment.alive_bytes + own_bytes, 1 - choices.whole)
        for number, size_bytes in moment.more:
            yield self.part(size_bytes, choices.kept[number])

    def around_bytes(self, index: int) -> int:
        """Alive in backward of a block whatever is chosen: gradients."""
        later = self.profile.blocks[index + 1 :]
        behind_bytes = self.profile.tail_gradient_bytes + sum(b.gradient_bytes for b in later)
        return self.profile.boundary_bytes(index + 1) + behind_bytes

    def _fit_tail(self) -> None:
        profile, last_bytes = self.profile, self.profile.boundary_bytes(self.count)
        tail = self.part(last_bytes + profile.tail_working_bytes)
        self._within(*self.before(self.count + 1), tail)
        kept, needed = profile.tail_saved_bytes, profile.tail_backward_working_bytes
        self._within(*self.behind(self.count), self.part(kept + needed))

    # The solution.

    def cost(self) -> Iterator[Any]:
        """Repeated time, in the programme's unit."""
        return itertools.chain.from_iterable(map(self.repeated, range(self.count)))

    def repeated(self, index: int) -> Iterator[Any]:
        """That of one block."""
        choices, block = self.choices[index], self.profile.blocks[index]
        operators = block.operators
        again_s = operators.recompute_s if operators else block.last_recompute_s
        yield (again_s / self.second) * (1 - choices.whole)
        yield (block.modes[0].recompute_s / self.second) * choices.whole
        for number, variable in choices.kept.items():
            assert operators is not None
            yield (-operators.operators[number].time_ps / PS / self.second) * variable

    def solved(self) -> tuple[Schedule, float] | None:
        """The schedule and a bound on its repeated seconds, or ``None`` if nothing fits."""
        if not optimal.fixed_terms_fit(self.profile, self.budget_bytes):
            return None
        self.model.minimize(highs.total(self.cost()))
        return (self._schedule(), self.bound_s()) if highs.is_feasible(self.model) else None

    def bound_s(self) -> float:
        """On the repeated seconds; once it is solved."""
        return max(0.0, highs.bound(self.model) * self.second)

    def mode_of(self, index: int, kept: list[int]) -> str:  # noqa: ARG002
        """That keeps these outputs of a block."""
        return keep(kept)

    def chosen(self, variable: Any) -> bool:
        """Whether it was."""
        return bool(self.model.val(variable) > 0.5)

    def _schedule(self) -> Schedule:
        nodes: list[plans.Node] = []
        modes = [ALL] * self.count
        for index, choices in enumerate(self.choices):
            kept = [j for j, variable in choices.kept.items() if self.chosen(variable)]
            if kept:
                modes[index] = self.mode_of(index, kept)
            nodes.append(index if kept or self.chosen(choices.whole) else (index,))
        return Schedule(tuple(nodes), tuple(modes) if set(modes) != {ALL} else ())
