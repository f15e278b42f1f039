"""Profiles a chain: what each block costs, by watching passes of the model.

1. A forward that lists what autograd saves, and for which block.
2. A step as the model is: what a block holds, needs and computes when it runs normally.
3. A step with every block in a recompute group of its own: what recompute needs.
4. The first two again for every op policy.

Before all of them, `scout` finds the blocks that are equal: of each kind one is watched, and the
others are passed by (`passage`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence

from torch._subclasses.fake_tensor import FakeTensor

from strategies.execution import block_modes as modes_of
from strategies.execution import layout, op_policies
from strategies.execution.chain import Chain
from strategies.execution.errors import Unsupported
from strategies.execution.undo import installed
from strategies.profiling import update_room
from strategies.profiling.composing import (
    fixed_s,
    gradient_bytes,
    lingering_bytes,
    untracked_bytes,
)
from strategies.profiling.operators import watch_operators
from strategies.profiling.rates import Rates, nominal
from strategies.profiling.saved import Kept, Saved, watch_saved
from strategies.profiling.scout import Alike, scout
from strategies.profiling.side_gradients import with_side_gradients
from strategies.profiling.step import Step
from strategies.profiling.watched import How, Watched, after
from strategies.schedules.modes import BlockOperators, Mode
from strategies.schedules.profile import BlockCost, ChainProfile
from strategies.schedules.schedule import ALL


def profile_chain(
    step: Step,
    chain: Chain,
    *,
    rates: Rates | None = None,
    modes: Sequence[str] = (),
    assigned: Sequence[Mapping[int, str]] = (),
    operators: bool = False,
    scratch: bool = False,
) -> ChainProfile:
    """The profile of ``step``'s model, whose blocks are ``chain``.

    Args:
        step: runs on any device, fake tensors included; its model is under no plan. Its gradients
            are dropped; see `strategies.profiling.step.preserved`.
        chain: the blocks; each must run once, in order.
        rates: what the operators' times are taken from; default: the step's own, or else round
            figures of the device.
        modes: op policies to profile besides ``all`` (`execution.block_modes`), those that no
            block can run in left out.
        assigned: further op policies, by block; each mapping is watched in one go.
        operators: list each block's operators, too.
        scratch: on a real CPU, working bytes include the scratch memory of kernels, as its
            allocator saw them; elsewhere they are tensors alone.

    Raises:
        Unsupported: a block runs more than once, or out of order, in one forward.
    """
    rates = rates or getattr(step, "rates", None) or nominal(step.device)
    how = How(rates, scratch and _is_real_cpu(step))
    with installed(lambda: update_room.install(step)):
        alike = scout(step, chain, {index for names in assigned for index in names})
        passes = _Passes(step, chain, alike, how)
        with installed(lambda: alike.install(chain, whole=False)):
            saved = watch_saved(step, chain)
        with installed(lambda: alike.install(chain, whole=True)):
            normal = how.watch(step, chain)
        with installed(lambda: alike.install(chain, whole=False)):
            costs = passes.costs(saved, normal, (modes, assigned), operators=operators)
        return passes.composed(costs, normal, saved)


@dataclasses.dataclass(frozen=True)
class _Passes:
    """All that is watched, of each kind of block once."""

    step: Step
    chain: Chain
    alike: Alike
    how: How

    def costs(
        self,
        saved: Saved,
        normal: Watched,
        policies: tuple[Sequence[str], Sequence[Mapping[int, str]]],
        *,
        operators: bool,
    ) -> dict[int, BlockCost]:
        """What every block that is watched costs, its gradients aside.

        Args:
            saved: what a plain forward saves.
            normal: a plain step.
            policies: ``modes`` and ``assigned`` of `profile_chain`.
            operators: see `profile_chain`.
        """
        step, chain, indices = self.step, self.chain, self.alike.watched
        plan = tuple((i,) if i in indices else i for i in range(len(chain)))
        with installed(lambda: layout.install(chain, plan)):
            steps = (normal, self.how.watch(step, chain))
        names = (*map(self._everywhere, policies[0]), *policies[1])
        others = [_watch_modes(step, chain, by_index, self.how) for by_index in names]
        rates, trace, listing = self.how.rates, self.how.trace(), indices if operators else []
        listed = watch_operators(step, chain, rates, trace, listing)
        return {i: _cost(i, saved, steps, others, listed.get(i)) for i in indices}

    def composed(
        self, costs: Mapping[int, BlockCost], normal: Watched, saved: Saved
    ) -> ChainProfile:
        """The whole chain, each block by the one that was watched for it."""
        chain, like, rates = self.chain, self.alike.like, self.how.rates
        gradients = gradient_bytes(chain, exist=getattr(self.step, "accumulation", False))
        blocks = tuple(
            dataclasses.replace(costs[source], gradient_bytes=size_bytes)
            for source, size_bytes in zip(like, gradients, strict=True)
        )
        profile = with_side_gradients(_assemble(blocks, normal, saved, chain.borders), normal)
        more_bytes = untracked_bytes(normal, like) - normal.untracked_bytes()
        return dataclasses.replace(
            profile,
            head_saved_bytes=profile.head_saved_bytes + more_bytes,
            tail_working_bytes=profile.tail_working_bytes + lingering_bytes(normal, like),
            fixed_s=fixed_s(normal, len(chain)),
            link_bytes_per_s=rates.link_bytes_per_s,
            link_tier=rates.link_tier,
        )

    def _everywhere(self, name: str) -> dict[int, str]:
        able = modes_of.supporting(self.chain, name)
        return dict.fromkeys((index for index in able if index in self.alike.watched), name)


def _cost(
    index: int,
    saved: Saved,
    steps: tuple[Watched, Watched],
    others: Sequence[_ModesWatched | None],
    operators: BlockOperators | None,
) -> BlockCost:
    """What a block that was watched costs, its gradients aside."""
    by_name = {ALL: _mode(ALL, saved.blocks[index], steps[0], index)}
    for watched in others:
        if watched is not None and index in watched.names:
            name = watched.names[index]
            by_name[name] = _mode(name, watched.saved.blocks[index], watched.step, index)
    output_bytes = saved.blocks[index].output_bytes
    cost = _block_cost(tuple(by_name.values()), output_bytes, 0, steps, index)
    return dataclasses.replace(cost, operators=operators)


def _is_real_cpu(step: Step) -> bool:
    fake = any(isinstance(tensor, FakeTensor) for tensor in step.resident_tensors())
    return step.device.type == "cpu" and not fake


@dataclasses.dataclass
class _ModesWatched:
    """The two passes under op policies, by block."""

    names: Mapping[int, str]
    saved: Saved
    step: Watched


def _watch_modes(
    step: Step, chain: Chain, names: Mapping[int, str], how: How
) -> _ModesWatched | None:
    """``None`` where the blocks cannot run so, which some find out only when they run."""
    if not names:
        return None
    with contextlib.suppress(Unsupported), installed(lambda: modes_of.install(chain, names)):
        try:
            saved = watch_saved(step, chain)
            watched = how.watch(step, chain)
        except RuntimeError as error:
            if op_policies.MUTATED in str(error):
                return None
            raise
        for index in names:
            saved.blocks[index].keeps_output |= modes_of.keeps_output(chain.blocks[index])
        return _ModesWatched(names, saved, watched)
    return None


def _mode(name: str, kept: Kept, watched: Watched, index: int) -> Mode:
    enter, leave = f"enter {index}", f"leave {index}"
    begin, end = f"backward {index}", after(index)
    gained_bytes = watched.gained_bytes(enter, leave) - kept.output_bytes
    return Mode(
        name=name,
        # An op policy keeps tensors in a place of its own, which no hook of autograd sees.
        saved_bytes=kept.saved_bytes if name == ALL else gained_bytes + watched.group_bytes,
        keeps_input=kept.keeps_input,
        keeps_output=kept.keeps_output,
        forward_working_bytes=watched.working_bytes(enter, leave),
        backward_working_bytes=watched.working_bytes(begin, end),
        backward_flops=watched.flops(begin, end),
        recompute_flops=watched.recompute_flops(begin, end),
        recompute_s=watched.recompute_s(begin, end),
    )


def _block_cost(
    modes: tuple[Mode, ...],
    output_bytes: int,
    gradient_bytes: int,
    steps: tuple[Watched, Watched],
    index: int,
) -> BlockCost:
    normal, recomputed = steps
    enter, leave = f"enter {index}", f"leave {index}"
    begin, end = f"backward {index}", after(index)
    return BlockCost(
        modes=modes,
        output_bytes=output_bytes,
        unsaved_working_bytes=recomputed.working_bytes(enter, leave),
        recompute_working_bytes=recomputed.working_bytes(begin, end),
        gradient_bytes=gradient_bytes,
        forward_flops=normal.flops(enter, leave),
        last_recompute_flops=recomputed.recompute_flops(begin, end),
        forward_s=normal.seconds(enter, leave),
        backward_s=max(0.0, normal.seconds(begin, end) - normal.recompute_s(begin, end)),
        last_recompute_s=recomputed.recompute_s(begin, end),
    )


def _assemble(
    blocks: tuple[BlockCost, ...], normal: Watched, saved: Saved, borders: tuple[int, ...]
) -> ChainProfile:
    input_bytes, tail_keeps_input = saved.input_bytes, saved.tail_keeps_input
    every = [block.modes[0] for block in blocks]
    last = len(blocks)
    enter, leave, done = normal.at("enter 0"), normal.at(f"leave {last - 1}"), "forward done"
    head_saved_bytes = enter.alive_bytes - normal.resident_bytes - input_bytes
    kept_bytes = _kept_bytes(blocks, saved)
    handed_on = blocks[-1].output_bytes * (not every[-1].keeps_output)
    # Alive when a plain run reaches the tail, and when it ends, but for what the tail keeps.
    at_tail = enter.alive_bytes - input_bytes + kept_bytes + handed_on
    at_end = at_tail - handed_on * (not tail_keeps_input)
    begin = f"backward {last - 1}"
    tail_saved_bytes = normal.at(done).alive_bytes - at_end
    before_blocks = at_tail - handed_on + blocks[-1].output_bytes  # its gradient in its place
    return ChainProfile(
        blocks=blocks,
        input_bytes=input_bytes,
        resident_bytes=normal.resident_bytes,
        head_saved_bytes=head_saved_bytes + normal.untracked_bytes(),
        head_working_bytes=normal.working_bytes("start", "enter 0"),
        head_backward_working_bytes=normal.working_bytes("backward of the head", "end"),
        tail_saved_bytes=tail_saved_bytes,
        tail_keeps_input=tail_keeps_input,
        tail_working_bytes=normal.working_bytes(leave.name, done) + leave.alive_bytes - at_tail,
        tail_backward_working_bytes=normal.working_bytes(done, begin),
        tail_gradient_bytes=normal.at(begin).alive_bytes - before_blocks,
        group_bytes=normal.group_bytes,
        update_working_bytes=normal.working_bytes("end", "updated"),
        borders=borders,
        head_keeps_output=saved.head_keeps_output,
    )


def _kept_bytes(blocks: tuple[BlockCost, ...], saved: Saved) -> int:
    """Held for the blocks when all ran normally: saved tensors, and boundaries that are kept."""
    sizes = [saved.input_bytes, *(block.output_bytes for block in blocks)]
    every = [block.modes[0] for block in blocks]
    kept = {i for i, mode in enumerate(every) if mode.keeps_input}
    kept |= {i + 1 for i, mode in enumerate(every) if mode.keeps_output}
    kept |= {0} if saved.head_keeps_output else set()
    return sum(mode.saved_bytes for mode in every) + sum(sizes[i] for i in kept)
