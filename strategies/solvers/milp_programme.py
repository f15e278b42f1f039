"""Time and bytes of `strategies.solvers.milp`. Imported on first use: brings HiGHS.

Bytes are those of the interpreter (`schedules.interpreter`), step by step; indices and
expressions are those of `milp_choices`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

from strategies.schedules.profile import ChainProfile
from strategies.solvers.highs import total
from strategies.solvers.milp_choices import Choices


@dataclasses.dataclass(frozen=True)
class Scale:
    """Bytes as numbers near 1 that lose nothing: a power of two of what divides all of them.

    Attributes:
        grain_bytes: divides every size, so that half of it is room for the solver's tolerance.
        unit_bytes: what 1 stands for.
    """

    grain_bytes: int
    unit_bytes: float

    @classmethod
    def of(cls, profile: ChainProfile, most_bytes: int) -> Scale:
        """For sums of up to ``most_bytes``."""
        grain_bytes = math.gcd(*_sizes(profile)) or 1
        return cls(grain_bytes, grain_bytes * 2.0 ** (most_bytes // grain_bytes).bit_length())

    def room(self, room_bytes: int) -> float:
        """The limit for sums of sizes: half a grain above the largest that fits."""
        return (room_bytes // self.grain_bytes + 0.5) * (self.grain_bytes / self.unit_bytes)


def _sizes(profile: ChainProfile) -> Iterator[int]:
    yield from (profile.input_bytes, profile.group_bytes, profile.tail_gradient_bytes)
    yield from (profile.tail_saved_bytes, profile.tail_working_bytes)
    yield profile.tail_backward_working_bytes
    for block in profile.blocks:
        yield from (block.output_bytes, block.gradient_bytes, block.copies_bytes)
        yield from (block.unsaved_working_bytes, block.recompute_working_bytes)
        yield block.again_working_bytes
        for mode in block.modes:
            yield from (mode.saved_bytes, mode.forward_working_bytes, mode.backward_working_bytes)


class Programme(Choices):
    """The choices within a budget, or with the smallest peak.

    Attributes:
        second: seconds that 1 in the objective stands for.
    """

    def __init__(self, profile: ChainProfile, most_bytes: int, *, smallest: bool = False) -> None:
        """Declare all of it.

        Args:
            profile: see `milp.solve`.
            most_bytes: for blocks and tail, above what is alive throughout.
            smallest: minimise the peak, not the time.
        """
        super().__init__(profile)
        self.scale = Scale.of(profile, max(1, most_bytes))
        self.second = max(block.forward_s for block in profile.blocks) or 1.0
        room = self.scale.room(most_bytes)
        self.room = self.model.addVariable(0, room) if smallest else room
        self.objective = self.room if smallest else total(self._times())
        self.behind = [profile.tail_gradient_bytes]  # gradients of the parameters after each block
        for block in profile.blocks[:0:-1]:
            self.behind.insert(0, self.behind[0] + block.gradient_bytes)
        for t in range(self.count):
            self._fit_forward(t)
            self._fit_backward(t)
        self._fit_forward(self.count)
        self._fit_tail()

    def _times(self) -> Iterator[Any]:
        for t, block in enumerate(self.profile.blocks):
            yield (block.last_recompute_s / self.second) * self.is_last(t)
            for i in range(t):
                yield (self.profile.blocks[i].forward_s / self.second) * self.runs[t, i]
            for m, mode in enumerate(block.modes):
                yield (mode.recompute_s / self.second) * self.bare[t + 1, t, m]

    def within(self, terms: Iterable[Any]) -> None:
        """The sum of bytes times variables is within the room."""
        self.require(total(terms) <= self.room)

    def part(self, size_bytes: int, variable: Any = 1) -> Any:
        """Bytes, if ``variable``."""
        return (size_bytes / self.scale.unit_bytes) * variable

    def boundary(self, i: int, variable: Any = 1) -> Any:
        """Bytes of boundary i, if ``variable``."""
        return self.part(self.profile.boundary_bytes(i), variable)

    def _kept(self, t: int, end: int) -> Iterator[Any]:
        """What blocks before ``end`` keep after they ran in stage t; boundary ``end`` aside.

        And what stage t has by position alone: gradients, of a boundary and of parameters.
        """
        if t < self.count:
            yield self.boundary(t + 1)
            yield self.part(self.behind[t])
        for j in range(end):
            yield self.boundary(j, self.held[t, j])
            for m, mode in enumerate(self.modes(j)):
                yield self.part(mode.saved_bytes, self.bare[t, j, m])

    def _fit_forward(self, t: int) -> None:
        again = [*self._states_again(t), *self._copies(t)] if t < self.count else []
        for i in range(t):
            block, run = self.profile.blocks[i], self.runs[t, i]
            new = [self._new(t, i, m) for m in range(len(block.modes))]
            again_bytes = block.copies_bytes * (t < self.count)
            needs = [
                self.part(mode.forward_working_bytes + again_bytes, bare)
                for mode, bare in zip(block.modes, new, strict=True)
            ]
            needs.append(self.part(block.unsaved_working_bytes, run - total(new)))
            needs.append(self.boundary(i, run))
            states = again if t < self.count else [*self._states_first(i), *self._copies_first(i)]
            self.within([*self._kept(t, i), *needs, *states])

    def _new(self, t: int, i: int, m: int) -> Any:
        """Block i runs bare in stage t's forward."""
        return self.bare[t, i, m] - (self.bare[t + 1, i, m] if t < self.count else 0)

    def _fit_backward(self, t: int) -> None:
        block, last = self.profile.blocks[t], self.is_last(t)
        alive = [*self._kept(t, t), *self._states_again(t), *self._copies(t)]
        needs = [self.part(block.recompute_working_bytes, last)]
        for m, mode in enumerate(block.modes):
            output_bytes = block.output_bytes * mode.keeps_output
            need_bytes = mode.saved_bytes + output_bytes + mode.backward_working_bytes
            needs.append(self.part(need_bytes, self.bare[t + 1, t, m]))
        self.within([*alive, self.boundary(t, self.held[t, t]), *needs])
        again = self.part(block.again_working_bytes, last)
        self.within([*alive, self.boundary(t, last), again])  # its input is there until it ran

    def _fit_tail(self) -> None:
        profile, end = self.profile, self.count
        states = [self.part(profile.group_bytes, self.is_last(e)) for e in range(end)]
        kept = [*self._kept(end, end), *states, *self._copies_first(end - 1)]
        self.within([*kept, self.boundary(end), self.part(profile.tail_working_bytes)])
        backward_bytes = profile.tail_saved_bytes + profile.tail_backward_working_bytes
        held = self.boundary(end, self.held[end, end])
        self.within([*kept, held, self.part(backward_bytes)])

    # Random state. Every group has one last block, so groups are counted by their last blocks.

    def _states_first(self, i: int) -> Iterator[Any]:
        """When block i runs in the step's forward: of groups up to the end of its top-level one."""
        own_bytes = self.profile.group_bytes
        for e in range(self.count if own_bytes else 0):
            if e <= i:
                yield self.part(own_bytes, self.is_last(e))
                continue
            together = self.model.addVariable(0, 1)
            cuts = total(self.begins(self.count, j) for j in range(i + 1, e + 1))
            self.require(together >= self.is_last(e) - cuts)
            yield self.part(own_bytes, together)

    def _states_again(self, t: int) -> Iterator[Any]:
        """In stage t: of groups up to t and around it; those that run again, once more."""
        own_bytes = self.profile.group_bytes
        if not own_bytes:
            return
        alone = self.model.addVariable(0, 1)  # block t is a group of its own: no second copy
        self.require(alone <= self.starts[t + 1, t])
        self.require(alone <= self.is_last(t))
        yield self.part(own_bytes, 2 * self.is_last(t) - alone)
        for e in range(t):
            inside = self.model.addVariable(0, 1)
            self.require(inside >= self.is_last(e) + self.runs[t, e] - 1)
            yield self.part(own_bytes, self.is_last(e) + inside)
        for e in range(t + 1, self.count):
            yield self.part(own_bytes, self.runs[e, t])

    # Copies of what blocks write to, which those in a top-level group keep until it is over.

    def _copies_first(self, i: int) -> Iterator[Any]:
        """When block i runs in the step's forward: of the blocks up to it."""
        for j, block in enumerate(self.profile.blocks[: i + 1]):
            yield self.part(block.copies_bytes, self._grouped(j))

    def _copies(self, t: int) -> Iterator[Any]:
        """In stage t: of those up to t, and of those behind it in its own top-level group."""
        yield from self._copies_first(t)
        for j in range(t + 1, self.count):
            if self.profile.blocks[j].copies_bytes:
                together = self.model.addVariable(0, 1)
                cuts = total(self.begins(self.count, k) for k in range(t + 1, j + 1))
                self.require(together >= self._grouped(j) - cuts)
                yield self.part(self.profile.blocks[j].copies_bytes, together)

    def _grouped(self, j: int) -> Any:
        return 1 - self.is_bare(self.count, j)
