"""The fastest nested plan within a budget, as a mixed-integer programme: an oracle for small chains.

Jain et al. 2020 («Checkmate», arXiv 1910.02653, §4) at block level: stage t ends with the backward
of block t, ``runs[t, i]`` says that block i runs forward in it, and what is kept from stage to
stage is a variable too. Two things are added. A kept boundary and a block's own saved tensors are
kept apart, since a block of PyTorch holds more than its output; and what is kept stays until its
backward (the paper's schedules may drop it earlier and make it again), for that is what nested
checkpoints can run. So the optimum is that of `rotor`, by other means, and byte-exact: no slots.

The programme does not see random state that groups keep, so its value is a lower bound. A schedule
that the interpreter finds to be over the budget for it is sought again with less.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import highspy

from strategies.cost import predict
from strategies.plan import Node
from strategies.profile import ChainProfile
from strategies.schedule import ALL, Schedule

MOST_BLOCKS = 16
"""Beyond this, branch and bound takes minutes."""


@dataclasses.dataclass(frozen=True)
class Solution:
    """What the programme found.

    Attributes:
        schedule: within the budget, by the interpreter.
        bound_s: no nested plan within the budget repeats less than this.
    """

    schedule: Schedule
    bound_s: float


@functools.lru_cache(maxsize=64)
def solve(profile: ChainProfile, budget_bytes: int) -> Solution | None:
    """The nested schedule that repeats least within a budget, or ``None``.

    Args:
        profile: with times, of at most `MOST_BLOCKS` blocks.
        budget_bytes: of the peak, everything included.

    Raises:
        ValueError: too many blocks.
    """
    if len(profile.blocks) > MOST_BLOCKS:
        count = len(profile.blocks)
        raise ValueError(f"the programme is for at most {MOST_BLOCKS} blocks, not {count}")
    room_bytes, bound_s = budget_bytes, None
    while True:
        programme = _Programme(profile, room_bytes)
        found = programme.solved()
        if found is None:
            return None
        bound_s = found[1] if bound_s is None else bound_s
        over_bytes = predict(profile, found[0]).peak_bytes - budget_bytes
        if over_bytes <= 0:
            return Solution(found[0], bound_s)
        room_bytes -= over_bytes


class _Programme:
    """Variables and constraints. Indices are stages t = 0 … L (L: forward and tail) and blocks i.

    Attributes:
        bare: [t, i, mode] block i's saved tensors are kept when stage t's forward is over.
        starts: [t, i] boundary i is kept, for a recompute group to begin from.
        held: [t, i] boundary i is alive after stage t's forward, for whatever reason.
        runs: [t, i] block i < t runs forward in stage t. In stage L all do.
    """

    def __init__(self, profile: ChainProfile, budget_bytes: int) -> None:
        self.profile, self.count = profile, len(profile.blocks)
        self.room = float(budget_bytes - profile.resident_bytes - profile.head_saved_bytes)
        self.unit = 2.0 ** math.frexp(max(1.0, self.room))[1]  # sums stay exact: nothing cancels to 1e-17
        self.second = max([block.forward_s for block in profile.blocks]) or 1.0
        self.model = highspy.Highs()
        self.model.setOptionValue("output_flag", False)
        for gap in ("mip_rel_gap", "mip_abs_gap"):
            self.model.setOptionValue(gap, 0.0)
        self.model.setOptionValue("small_matrix_value", 1e-12)  # else single bytes are dropped
        self.behind = [profile.tail_gradient_bytes]  # gradients of the parameters after each block
        for block in profile.blocks[:0:-1]:
            self.behind.insert(0, self.behind[0] + block.gradient_bytes)
        self.bare: dict[tuple[int, int, int], Any] = {}
        self.starts: dict[tuple[int, int], Any] = {}
        self.held: dict[tuple[int, int], Any] = {}
        self.runs: dict[tuple[int, int], Any] = {}
        self._declare()
        self._keep()
        self._run()
        self._fit()

    def _declare(self) -> None:
        binary = self.model.addBinary
        for t in range(self.count + 1):
            for i in range(t):
                for m in range(len(self.profile.blocks[i].modes)):
                    self.bare[t, i, m] = binary()
                self.starts[t, i] = binary()
                self.runs[t, i] = binary() if t < self.count else 1
            for i in range(t + 1):
                self.held[t, i] = self.model.addVariable(0, 1)

    # What a stage is made of.

    def is_bare(self, t: int, i: int) -> Any:
        """Block i's saved tensors are kept after stage t's forward, whatever its mode."""
        return self.sum(self.bare[t, i, m] for m in range(len(self.profile.blocks[i].modes)))

    def is_last(self, t: int) -> Any:
        """Block t runs again in its own stage, as the last of its group."""
        return 1 - self.is_bare(t + 1, t)

    @staticmethod
    def sum(terms: Any) -> Any:
        """As ``sum``, fast for expressions."""
        return highspy.Highs.qsum([0.0, *terms])

    def require(self, constraint: Any) -> None:
        """One constraint; plain truth needs none."""
        if not isinstance(constraint, bool):
            self.model.addConstr(constraint)

    # Constraints.

    def _keep(self) -> None:
        """Why a boundary is held, and that what is kept stays."""
        count, blocks = self.count, self.profile.blocks
        for t in range(count + 1):
            for i in range(t):
                self.require(self.is_bare(t, i) <= 1)
                self.require(self.held[t, i] >= self.starts[t, i])
                for m, mode in enumerate(blocks[i].modes):
                    if mode.keeps_input:
                        self.require(self.held[t, i] >= self.bare[t, i, m])
                    if mode.keeps_output:
                        self.require(self.held[t, i + 1] >= self.bare[t, i, m])
                    if t < count:
                        self.require(self.bare[t, i, m] >= self.bare[t + 1, i, m])
                if t < count:
                    self.require(self.starts[t, i] >= self.starts[t + 1, i])
        if self.profile.tail_keeps_input:
            self.require(self.held[count, count] >= 1)
        for t in range(count):  # in its own stage, for its own backward
            self.require(self.held[t, t] >= self.starts[t + 1, t])
            for m, mode in enumerate(blocks[t].modes):
                if mode.keeps_input:
                    self.require(self.held[t, t] >= self.bare[t + 1, t, m])
            if blocks[t].modes[0].keeps_input:
                self.require(self.held[t, t] >= self.is_last(t))

    def _run(self) -> None:
        """What has to run in which stage, and in an order that nested groups can run."""
        count = self.count
        begins = {0, *self.profile.borders}
        for t in range(count + 1):
            for i in range(t):
                if i in begins:
                    self.require(self.starts[t, i] + self.is_bare(t, i) >= 1)
                if i + 1 < t:  # behind a bare block, another one or a group
                    following = self.is_bare(t, i + 1) + self.starts[t, i + 1]
                    self.require(following >= self.is_bare(t, i))
                if t < count:
                    self._run_again(t, i)
            if t < count:
                self._reach(t, t, self.is_last(t))

    def _run_again(self, t: int, i: int) -> None:
        """Block i in the recompute of stage t: from one group's start up to block t, no further."""
        run = self.runs[t, i]
        following = self.runs[t, i + 1] if i + 1 < t else self.is_last(t)
        self.require(run <= following)
        self.require(run + self.starts[t + 1, i + 1] <= 1)
        self._reach(t, i, run)
        self.require(self.is_bare(t, i) - self.is_bare(t + 1, i) <= run)
        if i:
            new = self.starts[t, i] - self.starts[t + 1, i]
            self.require(new <= self.runs[t, i - 1])

    def _reach(self, t: int, i: int, run: Any) -> None:
        """Block i runs in stage t only where its input is: kept for it, or just made."""
        made = self.runs[t, i - 1] if i else 0
        self.require(run <= self.starts[t + 1, i] + made)

    def _fit(self) -> None:
        """Memory, whenever something runs."""
        for t in range(self.count + 1):
            for i in range(t):
                self._fit_forward(t, i)
            if t < self.count:
                self._fit_backward(t)
        self._fit_tail()

    def within(self, terms: list[Any]) -> None:
        """The sum of bytes times variables is within the room."""
        self.require(self.sum(terms) <= self.room / self.unit)

    def part(self, size_bytes: float, variable: Any) -> Any:
        """Bytes, in the programme's unit, if ``variable``."""
        return (size_bytes / self.unit) * variable

    def around(self, t: int) -> float:
        """Alive in stage t whatever the plan: gradients of the boundary and of parameters."""
        if t == self.count:
            return 0.0
        return (self.profile.boundary_bytes(t + 1) + self.behind[t]) / self.unit

    def kept(self, t: int, end: int) -> list[Any]:
        """What blocks before ``end`` keep when they have run in stage t, the boundary at end not."""
        blocks = self.profile.blocks
        terms = [self.part(self.profile.boundary_bytes(j), self.held[t, j]) for j in range(end)]
        for j in range(end):
            for m, mode in enumerate(blocks[j].modes):
                terms.append(self.part(mode.saved_bytes, self.bare[t, j, m]))
        return terms

    def _fit_forward(self, t: int, i: int) -> None:
        block, run = self.profile.blocks[i], self.runs[t, i]
        new = [self.bare[t, i, m] for m in range(len(block.modes))]
        if t < self.count:
            new = [made - self.bare[t + 1, i, m] for m, made in enumerate(new)]
        needs = [
            self.part(mode.forward_working_bytes, made)
            for mode, made in zip(block.modes, new, strict=True)
        ]
        unsaved = self.part(block.unsaved_working_bytes, run - self.sum(new))
        boundary = self.part(self.profile.boundary_bytes(i), run)
        self.within([*self.kept(t, i), boundary, unsaved, *needs, self.around(t)])

    def _fit_backward(self, t: int) -> None:
        profile, block = self.profile, self.profile.blocks[t]
        own = []
        for m, mode in enumerate(block.modes):
            output_bytes = profile.boundary_bytes(t + 1) * mode.keeps_output
            own_bytes = mode.saved_bytes + output_bytes + mode.backward_working_bytes
            own.append(self.part(own_bytes, self.bare[t + 1, t, m]))
        last = self.is_last(t)
        boundary = self.part(profile.boundary_bytes(t), self.held[t, t])
        again = self.part(block.recompute_working_bytes, last)
        self.within([*self.kept(t, t), boundary, again, *own, self.around(t)])
        arrives = self.part(profile.boundary_bytes(t), last)
        self.within([*self.kept(t, t), arrives, self.around(t)])

    def _fit_tail(self) -> None:
        profile, last_bytes = self.profile, self.profile.boundary_bytes(self.count)
        kept = self.kept(self.count, self.count)
        self.within([*kept, (last_bytes + profile.tail_working_bytes) / self.unit])
        held = self.part(last_bytes, self.held[self.count, self.count])
        backward_bytes = profile.tail_saved_bytes + profile.tail_backward_working_bytes
        self.within([*kept, held, backward_bytes / self.unit])

    # The solution.

    def cost(self) -> Iterator[Any]:
        """Repeated time, in the programme's unit."""
        for t, block in enumerate(self.profile.blocks):
            yield (block.last_recompute_s / self.second) * self.is_last(t)
            for i in range(t):
                yield (self.profile.blocks[i].forward_s / self.second) * self.runs[t, i]
            for m, mode in enumerate(block.modes):
                yield (mode.recompute_s / self.second) * self.bare[t + 1, t, m]

    def solved(self) -> tuple[Schedule, float] | None:
        """The schedule and its repeated seconds, or ``None`` if nothing fits."""
        if self.room <= 0 or not _fixed_terms_fit(self.profile, self.room):
            return None
        self.model.minimize(self.sum(self.cost()))
        if self.model.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return None
        bound_s = self.model.getInfo().mip_dual_bound * self.second
        modes = [ALL] * self.count
        nodes = tuple(self._nodes(self.count, 0, self.count, modes))
        return Schedule(nodes, () if set(modes) == {ALL} else tuple(modes)), max(0.0, bound_s)

    def chosen(self, variable: Any) -> bool:
        """The value of a binary variable."""
        return bool(self.model.val(variable) > 0.5)  # noqa: PLR2004 - of 0 and 1

    def _nodes(self, t: int, begin: int, end: int, modes: list[str]) -> Iterator[Node]:
        """How blocks begin … end − 1 lie after stage t's forward."""
        while begin < end:
            mode = self._mode(t, begin)
            if mode is not None:
                modes[begin] = mode
                yield begin
                begin += 1
                continue
            last = begin
            while last + 1 < end and not self._begins(t, last + 1):
                last += 1
            yield (*self._nodes(last, begin, last, modes), last)
            begin = last + 1

    def _begins(self, t: int, i: int) -> bool:
        return self.chosen(self.starts[t, i]) or self._mode(t, i) is not None

    def _mode(self, t: int, i: int) -> str | None:
        for m, mode in enumerate(self.profile.blocks[i].modes):
            if self.chosen(self.bare[t, i, m]):
                return mode.name
        return None


def _fixed_terms_fit(profile: ChainProfile, room: float) -> bool:
    """Whether head and update leave room, which no plan changes."""
    gradients = profile.tail_gradient_bytes + sum(b.gradient_bytes for b in profile.blocks)
    head_backward = gradients + profile.input_bytes + profile.head_backward_working_bytes
    return max(profile.head_working_bytes - profile.head_saved_bytes, head_backward) <= room
