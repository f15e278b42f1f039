"""Tensors that blocks hand on, and when a choice of operators holds them: for `selective_ops`.

As `strategies.schedules.sharing` counts: a block that keeps a tensor does so from its own forward
to the end of its own backward, so that in backward of block i only blocks up to i still do. It is
not enough to know whether a tensor is kept at all: its *first* holder frees it.

Places are in the order of forward: 2 i is the moment at which the model is at block i, 2 i + 1 is
in block i. What holds a tensor from a place of forward on frees it there in backward.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from strategies.schedules.modes import BlockOperators, Moment
from strategies.schedules.profile import BlockCost, ChainProfile, Shared

ALWAYS, NEVER = 1.0, 0.0
PERIODS = (1, 2)
"""Of blocks that choose alike: one by one, or in turns."""


@dataclasses.dataclass(frozen=True, eq=False)
class Choices:
    """Of one block: the variables.

    Attributes:
        whole: it runs as it is.
        kept: the output of operator j is kept, and the others run again.
        leaves: nothing is kept of it, and its input rests elsewhere.
    """

    whole: Any
    kept: dict[int, Any]
    leaves: Any = NEVER


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor.

    Attributes:
        life: who reads it, and how long the model itself holds it.
        size_bytes: of it.
        count: of blocks.
        chosen: [place] whether the choices up to there hold it: a variable, or a number.
        remade: [block] the same in the backward of one that is given it before it is a boundary,
            and that makes it again if it runs again.
    """

    life: Shared
    size_bytes: int
    count: int
    chosen: tuple[Any, ...]
    remade: dict[int, Any]

    @property
    def lasts(self) -> bool:
        """The model never lets it go."""
        return self.life.until > self.count + 1

    def in_forward(self, position: int) -> Any:
        """Whether it is alive as a block is entered, or at the end of forward."""
        lent = self.life.born < position < self.life.until
        return ALWAYS if lent else self.chosen[2 * position]

    def is_steady(self, index: int) -> bool:
        """Whether it is certain to be alive, or not to be, in a block and those around it."""
        around = range(index - max(PERIODS), index + 1 + max(PERIODS))
        passes = [[when(i) for i in around] for when in (self.in_forward, self.in_backward)]
        certain = all(isinstance(state, float) for states in passes for state in states)
        return certain and all(len(set(states)) == 1 for states in passes)

    def in_backward(self, index: int) -> Any:
        """Whether it is alive in backward of a block, or of the tail behind the last one."""
        chosen = self.remade.get(index, self.chosen[2 * index + 1])
        return ALWAYS if self.lasts else chosen


def is_between(index: int, choices: Sequence[Choices], tensors: Sequence[Tensor]) -> bool:
    """Whether blocks on both sides choose as one does: there what is alive is never the most.

    From the second of them to the last it grows evenly, or falls: with the bytes that each keeps.
    So it does where they take turns, of every other one.

    Args:
        index: of the block.
        choices: of all blocks; equal blocks that choose alike share theirs.
        tensors: that others read, too.
    """
    alike = any(_repeat(choices[max(0, index - 2 * n) : index + n + 1], n) for n in PERIODS)
    return alike and all(tensor.is_steady(index) for tensor in tensors)


def _repeat(choices: Sequence[Choices], period: int) -> bool:
    """Whether they do, three times and one."""
    pairs = zip(choices, choices[period:], strict=False)
    return len(choices) == 3 * period + 1 and all(one is other for one, other in pairs)


def tensors_of(profile: ChainProfile, choices: Sequence[Choices], model: Any) -> Iterator[Tensor]:
    """Every boundary in order, then what is beside the chain."""
    lives = {one.boundary: one for one in profile.shared if one.boundary is not None}
    for index in range(len(choices) + 1):
        plain = Shared(
            number=-1,
            size_bytes=profile.boundary_bytes(index),
            boundary=index,
            born=index - 1,
            until=index + 1,
        )
        yield _tensor(profile, lives.get(index, plain), choices, model)
    for shared in profile.shared:
        if shared.boundary is None:
            yield _tensor(profile, shared, choices, model)


def _tensor(profile: ChainProfile, life: Shared, choices: Sequence[Choices], model: Any) -> Tensor:
    either = functools.partial(_either, model)
    reasons = _reasons(profile, life, choices)
    chosen = tuple(itertools.accumulate(reasons, either, initial=NEVER))[1:]
    remade = {
        block: either(chosen[2 * block + 1], [1 - choices[block].whole])
        for block in life.read_by
        if block <= life.born
    }
    place = life.boundary
    size_bytes = life.size_bytes if place is None else profile.boundary_bytes(place)
    return Tensor(life, size_bytes, len(choices), chosen, remade)


def _reasons(profile: ChainProfile, life: Shared, choices: Sequence[Choices]) -> list[list[Any]]:
    """By place, why a tensor is held from there on."""
    reasons: list[list[Any]] = [[] for _ in range(2 * len(choices) + 4)]
    for position in life.between:
        reasons[2 * position].append(ALWAYS)
    for block in {*life.saved_by, *life.read_by}:
        reasons[2 * block + 1] += _held_by(life, block, choices[block])
    if life.boundary is not None:
        for place, reason in _held_by_chain(profile, life.boundary, choices):
            reasons[place].append(reason)
    return reasons


def _held_by(life: Shared, block: int, choices: Choices) -> list[Any]:
    """By a block that saves it, or that needs it to run again."""
    saved = block in life.saved_by
    if block in life.read_by and life.born < block:
        return [ALWAYS if saved else 1 - choices.whole]
    return [*[choices.whole] * saved, *choices.kept.values()]  # any policy saves, too


def _held_by_chain(
    profile: ChainProfile, boundary: int, choices: Sequence[Choices]
) -> Iterator[tuple[int, Any]]:
    """A boundary by head and tail, and by the blocks on both sides of it."""
    count, blocks, place = len(choices), profile.blocks, 2 * boundary
    if boundary == 0 and profile.head_keeps_output:
        yield place, ALWAYS
    if boundary == count and profile.tail_keeps_input:
        yield place, ALWAYS
    if boundary > 0 and blocks[boundary - 1].modes[0].keeps_output:
        yield place - 1, choices[boundary - 1].whole
    if boundary < count:
        keeps, leaves = blocks[boundary].modes[0].keeps_input, choices[boundary].leaves
        held = ALWAYS if keeps else 1 - choices[boundary].whole
        yield place + 1, held if leaves is NEVER else held - leaves


def _either(model: Any, before: Any, reasons: list[Any]) -> Any:
    """Whether there is a reason; numbers are certain, and need no variable."""
    known = [before, *reasons]
    certain = [reason for reason in known if isinstance(reason, float)]
    if ALWAYS in certain:
        return ALWAYS
    uncertain = [reason for reason in known if not isinstance(reason, float)]
    if len(uncertain) <= 1:
        return next(iter(uncertain), NEVER)
    held = model.addVariable(0, 1)
    for reason in uncertain:
        model.addConstr(held >= reason)
    return held


def forward_moments(block: BlockCost) -> tuple[Moment, ...]:
    """Of a block under a checkpoint, in forward."""
    return _moments(block.operators, block.unsaved_working_bytes, forward=True)


def backward_moments(block: BlockCost) -> tuple[Moment, ...]:
    """Of a block under a checkpoint, in recompute and backward."""
    return _moments(block.operators, block.recompute_working_bytes, forward=False)


def _moments(
    operators: BlockOperators | None, working_bytes: int, *, forward: bool
) -> tuple[Moment, ...]:
    """Of the operators, or of the block as a whole."""
    if operators is None:
        return (Moment(working_bytes, ()),)
    return operators.forward if forward else operators.backward
