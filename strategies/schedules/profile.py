"""The chain profile: what each block of a model costs, as data. Pure Python, no torch.

Made by `strategies.profiling` (or by hand, in tests); read by the plan interpreter
(`strategies.schedules.interpreter`) and by the solvers (`strategies.solvers`).
"""

from __future__ import annotations

import dataclasses
import functools
import math

from strategies.schedules.modes import BlockOperators, Mode, kept_by
from strategies.schedules.plan import Plan
from strategies.schedules.schedule import ALL, HOST, Schedule

LAST_STEP = -2
"""Where what is there before a step was born: in the one before."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Casts:
    """Copies of a block's weights that autocast makes, and holds until it ends.

    In forward that is the end of the caller's; a recompute of a group runs in one of its own.

    Attributes:
        saved_bytes: of those that the block keeps for its backward in mode ``all``, too.
        other_bytes: of the others: no gradient has a bias as a factor.
        until: the position at which autocast has ended in forward, as in `Shared`.
    """

    saved_bytes: int = 0
    other_bytes: int = 0
    until: int = 0

    def gone_bytes(self, position: int) -> int:
        """Of copies that no backward needs, what is over at a position."""
        return self.other_bytes * (self.until <= position)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockCost:
    """One block, as profiled. *Working* bytes are the most alive above the bytes at the start.

    Attributes:
        modes: ways to run it; the first is the one in which it runs in groups: ``all``, or compiled
            without a budget, where that is faster.
        output_bytes: the boundary that the block hands on, as the next one takes it.
        unsaved_working_bytes: during a forward inside a checkpoint, which keeps nothing.
        recompute_working_bytes: during recompute and backward of a group of this block alone.
        again_working_bytes: during that recompute, before its backward, the block's input aside,
            which is there until then.
        gradient_bytes: that its backward leaves alive: gradients of parameters, and of what other
            blocks are given too; less than zero where such a one comes to its end.
        forward_flops: of one forward.
        last_recompute_flops: of a recompute that stops at the block's last saved tensor.
        forward_s: time of one forward in the first mode.
        backward_s: time of one backward in the fastest mode, repeated work not counted.
        last_recompute_s: time of a recompute that stops at the block's last saved tensor.
        operators: what the block's operators cost, for solvers that choose among them.
        casts: what autocast holds when it has run.
        copies_bytes: of buffers that its forward writes, and of what it puts others in the place
            of, which it keeps in a top-level group, as they were, until that has run again,
            backward too.
    """

    modes: tuple[Mode, ...]
    output_bytes: int
    unsaved_working_bytes: int
    recompute_working_bytes: int
    gradient_bytes: int
    forward_flops: int
    last_recompute_flops: int
    forward_s: float = 0.0
    backward_s: float = 0.0
    last_recompute_s: float = 0.0
    operators: BlockOperators | None = None
    again_working_bytes: int = 0
    casts: Casts = Casts()
    copies_bytes: int = 0

    def cast_bytes(self, mode: Mode | None) -> int:
        """Of copies of weights that are held, when it has run, beside what it keeps.

        Args:
            mode: in which it ran; ``None``: in a group, in which it keeps nothing. A policy that
                was watched as a whole is charged with them as kept; compiled blocks cast inside.
        """
        if (mode or self.modes[0]).name == ALL:
            return self.casts.other_bytes + (0 if mode else self.casts.saved_bytes)
        chosen = mode is not None and kept_by(mode.name) is not None
        return chosen * (self.casts.other_bytes + self.casts.saved_bytes)

    def mode(self, name: str) -> Mode:
        """The mode of that name; of ``keep(…)``, worked out from the operators.

        Raises:
            ValueError: the block has none.
        """
        for mode in self.modes:
            if mode.name == name:
                return mode
        if self.operators is not None and self.operators.valid(kept_by(name)):
            return self.operators.mode(name)
        known = ", ".join(mode.name for mode in self.modes)
        raise ValueError(f"the block has no mode {name!r}; it has {known}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shared:
    """A tensor with readers beside the next block: a skip, encoder states, a position bias.

    Positions are those of a forward: ``i`` is the moment at which block i is entered, ``L`` that at
    which the last one is left, ``L + 1`` the end of forward.

    Attributes:
        number: which of them it is: others may be its equal in all else.
        size_bytes: of it.
        boundary: which boundary it is; ``None``: another tensor.
        born: the block whose run it is there after; ``-1``: it is there before block 0;
            `LAST_STEP`: before the head, for a block that puts another in its place.
        until: the position at which the model itself lets it go; beyond ``L + 1``: not in a step.
        saved_by: blocks that keep it for their backward in mode ``all``, as something else than
            their own input or output.
        read_by: blocks that are given it, as something else than their input.
        between: positions at which what the model computes there keeps it for its backward.
        inside: the block made it for itself, and somebody holds it all the same: scores of
            attention on a list, a cache. A recompute makes another.
    """

    number: int
    size_bytes: int
    boundary: int | None
    born: int
    until: int
    saved_by: tuple[int, ...] = ()
    read_by: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    inside: bool = False

    @property
    def is_of_head(self) -> bool:
        """Whether the head made it, for the blocks to read: a mask, a table of positions."""
        return self.boundary is None and self.born < 0

    @property
    def is_of_last_step(self) -> bool:
        """Whether a block made it in the step before: scores, or an output, in an attribute."""
        return self.born == LAST_STEP


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainProfile:
    """A chain of blocks between a head and a tail.

    Attributes:
        blocks: in order.
        input_bytes: the boundary that the head hands to block 0.
        resident_bytes: alive before the step and throughout: parameters, buffers, batch, optimizer,
            tables.
        head_saved_bytes: kept by the head between forward and backward, what is `shared` aside.
        head_working_bytes: most alive during the head's forward.
        head_backward_working_bytes: most alive during the head's backward, above its start.
        tail_saved_bytes: kept by tail and loss when forward ends.
        tail_keeps_input: the tail keeps the last boundary.
        tail_working_bytes: most alive during the tail's forward, above its start, what is `shared`
            and let go by its end aside: if a plan keeps it, it is alive besides.
        tail_backward_working_bytes: most alive during the tail's backward, above its start.
        tail_gradient_bytes: parameter gradients alive when the tail's backward ends.
        group_bytes: what each recompute group keeps besides inputs and copies (random state).
        head_gradient_bytes: gradients of what many blocks are given, that its backward frees.
        update_working_bytes: most alive during the optimizer's update, above its start.
        borders: blocks that no recompute group may run across (first of another container, or given
            something else than what the block before returns).
        shared: tensors with other readers, which no plan frees.
        fixed_s: time of head, tail, loss and optimizer, forward and backward together.
        head_keeps_output: boundary 0 is alive whatever the blocks do: the head saved it, or it is
            the batch itself.
        link_bytes_per_s: between the device and where boundaries are offloaded, each way.
            Infinite: transfers take no time. 0: there is no link, and a boundary that were to
            leave would never arrive.
        link_tier: what is at the other end of it: ``host`` or ``disk``.
        faked: profiled on fake tensors, for the step does not fit as it is: no scratch memory.
        left_out: sentences on modes that were asked for and are not there.
        eager_blocks: the blocks without their compiled modes, if they have any.
        lean_blocks: the blocks, each as it needs least in groups, eager or compiled, where that is
            another way than the faster: what a clock says moves no smallest budget.
    """

    blocks: tuple[BlockCost, ...]
    input_bytes: int
    resident_bytes: int
    head_saved_bytes: int
    head_working_bytes: int
    head_backward_working_bytes: int
    tail_saved_bytes: int
    tail_keeps_input: bool
    tail_working_bytes: int
    tail_backward_working_bytes: int
    tail_gradient_bytes: int
    group_bytes: int = 0
    head_gradient_bytes: int = 0
    update_working_bytes: int = 0
    borders: tuple[int, ...] = ()
    shared: tuple[Shared, ...] = ()
    fixed_s: float = 0.0
    head_keeps_output: bool = False
    link_bytes_per_s: float = 0.0
    link_tier: str = HOST
    faked: bool = False
    left_out: tuple[str, ...] = ()
    eager_blocks: tuple[BlockCost, ...] = ()
    lean_blocks: tuple[BlockCost, ...] = ()

    @property
    def start_bytes(self) -> int:
        """Alive when the step starts: what is resident, and what its blocks will replace."""
        replaced = (one.size_bytes for one in self.shared if one.is_of_last_step)
        return self.resident_bytes + sum(replaced)

    def boundary_bytes(self, index: int) -> int:
        """The boundary that block ``index`` reads (``len(blocks)``: that the tail reads)."""
        return self.blocks[index - 1].output_bytes if index else self.input_bytes

    def transfer_s(self, index: int) -> float:
        """Time of boundary ``index`` on the link, one way."""
        return self.crossing_s(self.boundary_bytes(index))

    def crossing_s(self, size_bytes: int) -> float:
        """Time of so many bytes on the link, one way."""
        return size_bytes / self.link_bytes_per_s if self.link_bytes_per_s else math.inf

    @property
    def eager(self) -> ChainProfile | None:
        """The same chain without compiled modes, if it has any."""
        return self._of(self.eager_blocks) if self.eager_blocks else None

    @property
    def lean(self) -> ChainProfile | None:
        """The same chain, of `lean_blocks`, if it has any."""
        return self._of(self.lean_blocks) if self.lean_blocks else None

    @property
    def ways(self) -> list[ChainProfile]:
        """All profiles of the chain: this one, the eager one, the lean one."""
        return [self, *filter(None, (self.eager, self.lean))]

    def _of(self, blocks: tuple[BlockCost, ...]) -> ChainProfile:
        return dataclasses.replace(self, blocks=blocks, eager_blocks=(), lean_blocks=())

    @functools.cached_property
    def first_modes(self) -> tuple[str, ...]:
        """The mode of each block in which it runs in groups."""
        return tuple(block.modes[0].name for block in self.blocks)

    def schedule(self, plan: Plan) -> Schedule:
        """A plan, every block in its first mode."""
        return Schedule(plan, self.first_modes)

    @property
    def plain_step_s(self) -> float:
        """Time of a step without recomputation."""
        return self.fixed_s + sum(block.forward_s + block.backward_s for block in self.blocks)
