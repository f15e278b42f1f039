"""What a plan costs: an interpreter of plans over a chain profile. Pure Python, no torch.

It shares no code with the executor: it walks the plan as autograd would walk the graph, and keeps
a ledger of which bytes are held. Quantities are of one training step that starts without gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from strategies.plan import Node, Plan, first, forward_counts, leaves


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockCost:
    """One block, as profiled. *Working* bytes are the most alive above the bytes at the start.

    Attributes:
        saved_bytes: what autograd keeps of a block that runs normally, its own input and output
            not counted.
        keeps_input: autograd keeps the block's input for it.
        keeps_output: autograd keeps the block's output for it.
        output_bytes: the boundary that the block hands on.
        forward_working_bytes: during a normal forward.
        unsaved_working_bytes: during a forward inside a checkpoint, which keeps nothing.
        backward_working_bytes: during backward of a block that ran normally.
        recompute_working_bytes: during recompute and backward of a group of this block alone.
        gradient_bytes: parameter gradients that its backward creates.
        forward_flops: of one forward.
        backward_flops: of one backward, recompute inside the block included.
        inner_recompute_flops: the part of ``backward_flops`` that repeats forward work (blocks
            whose sub-modules are checkpointed).
        last_recompute_flops: of a recompute that stops at the block's last saved tensor.
    """

    saved_bytes: int
    keeps_input: bool
    keeps_output: bool
    output_bytes: int
    forward_working_bytes: int
    unsaved_working_bytes: int
    backward_working_bytes: int
    recompute_working_bytes: int
    gradient_bytes: int
    forward_flops: int
    backward_flops: int
    inner_recompute_flops: int
    last_recompute_flops: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainProfile:
    """A chain of blocks between a head and a tail.

    Attributes:
        blocks: in order.
        input_bytes: the boundary that the head hands to block 0.
        resident_bytes: alive before the step and throughout: parameters, buffers, batch.
        head_saved_bytes: kept by the head between forward and backward.
        head_working_bytes: most alive during the head's forward.
        head_backward_working_bytes: most alive during the head's backward, above its start.
        tail_saved_bytes: kept by tail and loss when forward ends.
        tail_keeps_input: the tail keeps the last boundary.
        tail_working_bytes: most alive during the tail's forward, above its start.
        tail_backward_working_bytes: most alive during the tail's backward, above its start.
        tail_gradient_bytes: parameter gradients alive when the tail's backward ends.
        group_bytes: what each recompute group keeps besides its input (random state).
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

    def boundary_bytes(self, index: int) -> int:
        """The boundary that block ``index`` reads (``len(blocks)``: that the tail reads)."""
        return self.blocks[index - 1].output_bytes if index else self.input_bytes


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a plan costs.

    Attributes:
        peak_bytes: most alive at once.
        after_forward_bytes: alive when forward ends, resident bytes included.
        saved_bytes: alive when forward ends, resident bytes not included.
        recompute_flops: forward work done again.
        block_forwards: how often each block's forward is entered.
        peak_phase: where the peak is: ``head``, ``forward 3``, ``tail``, ``backward 3`` …
    """

    peak_bytes: int
    after_forward_bytes: int
    saved_bytes: int
    recompute_flops: int
    block_forwards: tuple[int, ...]
    peak_phase: str


def predict(
    profile: ChainProfile, plan: Plan, resting_bytes: Sequence[int] | None = None
) -> Prediction:
    """Interpret ``plan`` over ``profile``.

    Args:
        profile: see `ChainProfile`.
        plan: a valid plan for ``len(profile.blocks)`` blocks.
        resting_bytes: bytes on the device of each boundary while it waits as the input of a
            top-level group (compressed or offloaded); default: as it is.
    """
    resting = resting_bytes or [profile.boundary_bytes(i) for i in range(len(profile.blocks))]
    machine = _Machine(profile, list(resting))
    machine.forward(plan)
    after_forward_bytes = machine.alive_bytes
    machine.backward(plan)
    return Prediction(
        peak_bytes=machine.peak_bytes,
        after_forward_bytes=after_forward_bytes,
        saved_bytes=after_forward_bytes - profile.resident_bytes,
        recompute_flops=machine.recompute_flops,
        block_forwards=tuple(forward_counts(plan, len(profile.blocks))),
        peak_phase=machine.peak_phase,
    )


class _Machine:
    """Bytes held, step by step."""

    def __init__(self, profile: ChainProfile, resting: list[int]) -> None:
        self.profile, self.resting = profile, resting
        self.alive_bytes = profile.resident_bytes
        self.peak_bytes, self.peak_phase = self.alive_bytes, "start"
        self.recompute_flops = 0
        self.holders = [0] * (len(profile.blocks) + 1)

    def visit(self, working_bytes: int, phase: str) -> None:
        """Something needs ``working_bytes`` above what is alive."""
        if self.alive_bytes + working_bytes > self.peak_bytes:
            self.peak_bytes, self.peak_phase = self.alive_bytes + working_bytes, phase

    def hold(self, boundary: int) -> None:
        """One more reason for a boundary to be alive."""
        if not self.holders[boundary]:
            self.alive_bytes += self.profile.boundary_bytes(boundary)
        self.holders[boundary] += 1

    def drop(self, boundary: int) -> None:
        """One reason less."""
        self.holders[boundary] -= 1
        assert self.holders[boundary] >= 0
        if not self.holders[boundary]:
            self.alive_bytes -= self.profile.boundary_bytes(boundary)

    # Forward.

    def forward(self, plan: Plan) -> None:
        """Head, blocks, tail and loss."""
        profile = self.profile
        self.visit(profile.head_working_bytes, "head")
        self.alive_bytes += profile.head_saved_bytes
        self.hold(0)
        for node in plan:
            self.run(node, top=True)
        last = len(profile.blocks)
        self.visit(profile.tail_working_bytes, "tail")
        self.alive_bytes += profile.tail_saved_bytes
        if profile.tail_keeps_input:
            self.hold(last)
        self.drop(last)

    def run(self, node: Node, *, top: bool = False) -> None:
        """Run a node under its own plan; the caller holds its input, and then its output."""
        if isinstance(node, int):
            self.save(node)
            self.drop(node)
            return
        begin = first(node)
        if not top:
            self.hold(begin)
        else:
            self.alive_bytes += self.resting[begin]
        self.alive_bytes += self.profile.group_bytes
        if top and self.resting[begin] == self.profile.boundary_bytes(begin):
            self.alive_bytes -= self.resting[begin]  # as it is: the boundary itself is held
            self.hold(begin)
        self.run_unsaved(node)

    def save(self, index: int) -> None:
        """A normal forward: what autograd needs is held from here on."""
        block = self.profile.blocks[index]
        self.visit(block.forward_working_bytes, f"forward {index}")
        self.alive_bytes += block.saved_bytes
        self.hold(index + 1)
        if block.keeps_input:
            self.hold(index)
        if block.keeps_output:
            self.hold(index + 1)

    def run_unsaved(self, node: Node) -> None:
        """A forward inside a checkpoint: only the boundary that is handed on is held."""
        for index in leaves(node):
            block = self.profile.blocks[index]
            self.visit(block.unsaved_working_bytes, f"forward {index}")
            self.hold(index + 1)
            self.drop(index)

    # Backward. The gradient of the boundary at hand is counted in ``alive_bytes``.

    def backward(self, plan: Plan) -> None:
        """Tail, blocks in reverse, head."""
        profile, last = self.profile, len(self.profile.blocks)
        self.visit(profile.tail_backward_working_bytes, "backward of the tail")
        self.alive_bytes -= profile.tail_saved_bytes
        if profile.tail_keeps_input:
            self.drop(last)
        self.alive_bytes += profile.tail_gradient_bytes + profile.boundary_bytes(last)
        for node in reversed(plan):
            self.unwind(node, top=True)
        self.visit(profile.head_backward_working_bytes, "backward of the head")

    def unwind(self, node: Node, *, top: bool = False) -> None:
        """Backward of a node that ran under its own plan."""
        if isinstance(node, int):
            self.backward_of(node)
            return
        begin = first(node)
        compressed = top and self.resting[begin] != self.profile.boundary_bytes(begin)
        if compressed:
            self.hold(begin)  # restored beside its resting form
        self.recompute(node)
        self.drop(begin)
        if compressed:
            self.alive_bytes -= self.resting[begin]
        self.alive_bytes -= self.profile.group_bytes

    def recompute(self, group: tuple[Node, ...]) -> None:
        """Run a group again, keeping what its plan keeps, then unwind it."""
        self.hold(first(group))
        for child in group[:-1]:
            self.recompute_flops += sum(self.profile.blocks[i].forward_flops for i in leaves(child))
            self.run(child)
        if isinstance(group[-1], int):
            self.last_of_group(group[-1])
        else:
            self.alive_bytes += self.profile.group_bytes
            self.unwind(group[-1])
        for child in reversed(group[:-1]):
            self.unwind(child)

    def last_of_group(self, index: int) -> None:
        """Recompute that stops early, with its backward: profiled as one, its input aside."""
        block = self.profile.blocks[index]
        if not block.keeps_input:
            self.drop(index)
        self.visit(block.recompute_working_bytes, f"recompute {index}")
        if block.keeps_input:
            self.drop(index)
        self.recompute_flops += block.last_recompute_flops
        self.pass_gradient(index)

    def backward_of(self, index: int) -> None:
        """Backward of a block whose tensors are held."""
        block = self.profile.blocks[index]
        self.visit(block.backward_working_bytes, f"backward {index}")
        self.recompute_flops += block.inner_recompute_flops
        self.alive_bytes -= block.saved_bytes
        if block.keeps_output:
            self.drop(index + 1)
        if block.keeps_input:
            self.drop(index)
        self.pass_gradient(index)

    def pass_gradient(self, index: int) -> None:
        """The gradient of the output gives way to that of the input, and the parameters'."""
        profile = self.profile
        self.alive_bytes += profile.blocks[index].gradient_bytes
        self.alive_bytes += profile.boundary_bytes(index) - profile.boundary_bytes(index + 1)
