"""Profiles a chain: what each block costs, by watching passes of the model.

1. A forward that lists what autograd saves, and for which block.
2. A step as the model is: what a block holds, needs and computes when it runs normally.
3. A step with every block in a recompute group of its own: what recompute needs.
4. The first two again for every op policy, and, compiled, with an allocator's eyes (`compiled`).

Before all of them, `scout` finds the blocks that are equal: of each kind one is watched, and the
others are passed by (`passage`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from strategies.execution import block_modes as modes_of
from strategies.execution import layout
from strategies.execution.chain import Chain
from strategies.execution.errors import INSTEAD, Unsupported
from strategies.execution.undo import installed
from strategies.execution.written import written_bytes
from strategies.profiling import update_room
from strategies.profiling.balance import balanced
from strategies.profiling.caching_allocator import surplus_bytes
from strategies.profiling.charged import in_vain, with_unseen, without_output, without_own
from strategies.profiling.compiled import eagerly, is_compiled, seen_on, with_compiled
from strategies.profiling.composing import (
    fixed_s,
    gradient_bytes,
    lingering_bytes,
    untracked_bytes,
)
from strategies.profiling.lives import watch_lives
from strategies.profiling.operators import watch_operators
from strategies.profiling.passed import Passed
from strategies.profiling.rates import Rates, nominal
from strategies.profiling.saved import Saved, check_all_ran, watch_saved
from strategies.profiling.scout import Alike, each, scout
from strategies.profiling.step import Step, run_once
from strategies.profiling.watched import How, Watched, after
from strategies.profiling.watched_modes import ModesWatched, mode_of, watch_modes
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
    compiled: Sequence[str] = (),
) -> ChainProfile:
    """The profile of ``step``'s model, whose blocks are ``chain``.

    Args:
        step: runs on any device, fake tensors included; its model is under no plan. Its gradients
            are dropped; see `strategies.profiling.step.preserved`.
        chain: the blocks, in the order in which they run, one that runs several times as often.
        rates: what the operators' times are taken from; default: the step's own, or else round
            figures of the device.
        modes: op policies to profile besides ``all`` (`execution.block_modes`), those that no
            block can run in left out.
        assigned: further op policies, by block; each mapping is watched in one go.
        operators: list each block's operators, too.
        scratch: working bytes include the scratch memory of kernels, as the allocator of a real
            device saw them (`allocator.SEEN`); of fake tensors, what the rates say of it.
        compiled: modes of blocks that are compiled by themselves, on a real device. Blocks that
            were compiled before run as they are, in no other mode.

    Raises:
        Unsupported: a block runs more often than it is in the chain, or out of order, in one
            forward; or one that was compiled before is in it several times.
    """
    rates = rates or getattr(step, "rates", None) or nominal(step.device)
    how = How(rates, seen_on(step) if scratch else None)
    before = any(map(is_compiled, chain.blocks))
    if before and chain.repeats:
        raise Unsupported(
            "blocks that are compiled and run several times in one forward are not planned for;"
            f" plan without compile_blocks, or {INSTEAD}"
        )
    policies = ((), ()) if before else (modes, assigned)
    with eagerly(chain.blocks), installed(lambda: update_room.install(step)):
        alike = scout(step, chain, {index for names in policies[1] for index in names})
        with installed(lambda: alike.install(chain, whole=True)):
            passed = watch_lives(step, chain)
        if alike.stands_for(passed.alone):
            alike = each(chain)  # blocks that are passed by make nothing of the kind
            passed = watch_lives(step, chain)
        passed = passed.for_all(alike.like)
        alike = alike.without(passed.beside)
        if how.scratch not in (None, "cpu"):
            run_once(step)  # what libraries keep from then on is no scratch
            step.drop_gradients()
        passes = _Passes(step, chain, alike, how)
        profile = passes.profile(policies, passed, operators=operators and not before)
    if how.scratch == "cuda":
        profile = _with_blocks(profile, step)
    return with_compiled(profile, step, chain, alike, compiled)


@dataclasses.dataclass(frozen=True)
class _Passes:
    """All that is watched, of each kind of block once."""

    step: Step
    chain: Chain
    alike: Alike
    how: How

    def profile(
        self,
        policies: tuple[Sequence[str], Sequence[Mapping[int, str]]],
        passed: Passed,
        *,
        operators: bool,
    ) -> ChainProfile:
        """The whole chain, its blocks not compiled; see `costs`."""
        step, chain, alike = self.step, self.chain, self.alike
        with installed(lambda: alike.install(chain, whole=False)):
            saved = watch_saved(step, chain)
        with installed(lambda: alike.install(chain, whole=True)):
            normal, unseen = self.how.watch_twice(step, chain)
        with installed(lambda: alike.install(chain, whole=False)):
            costs = self.costs(saved, normal, policies, operators=operators)
        costs = {i: with_unseen(cost, unseen[i]) for i, cost in costs.items()}
        return self.composed(costs, normal, saved, passed)

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
        others = [watch_modes(step, chain, by_index, self.how) for by_index in names]
        rates, trace, listing = self.how.rates, self.how.trace(), indices if operators else []
        listed = watch_operators(step, chain, rates, trace, listing)
        return {i: _cost(i, saved, steps, others, listed.get(i)) for i in indices}

    def composed(
        self, costs: Mapping[int, BlockCost], normal: Watched, saved: Saved, passed: Passed
    ) -> ChainProfile:
        """The whole chain, each block by the one that was watched for it."""
        chain, like, rates = self.chain, self.alike.like, self.how.rates
        check_all_ran([index < len(passed.input_bytes) for index in range(len(chain))])
        gradients = gradient_bytes(chain, exist=getattr(self.step, "accumulation", False))
        outputs = (*passed.input_bytes[1:], costs[like[-1]].output_bytes)
        own = [
            dataclasses.replace(
                costs[source],
                gradient_bytes=size,
                output_bytes=output_bytes,
                copies_bytes=written_bytes(chain.blocks[source]) + passed.replaced_bytes(index),
                casts=passed.casts[index],
            )
            for index, (source, size, output_bytes) in enumerate(
                zip(like, gradients, outputs, strict=True)
            )
        ]
        blocks = tuple(
            without_output(block, costs[source].output_bytes) if i in passed.copies else block
            for i, (block, source) in enumerate(zip(own, like, strict=True), start=1)
        )
        blocks = tuple(without_own(block, passed, i) for i, block in enumerate(blocks))
        bare = _assemble(blocks, normal, saved, (chain.borders, passed))
        profile = balanced(bare, normal, lingering_bytes(normal, like, passed.casts))
        return dataclasses.replace(
            profile,
            head_saved_bytes=profile.head_saved_bytes + untracked_bytes(normal, like),
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
    others: Sequence[ModesWatched | None],
    operators: BlockOperators | None,
) -> BlockCost:
    """What a block that was watched costs, its gradients aside."""
    by_name = {ALL: mode_of(ALL, saved.blocks[index], steps[0], index)}
    for watched in others:
        if watched is not None and index in watched.names:
            name = watched.names[index]
            mode = mode_of(name, watched.saved.blocks[index], watched.step, index)
            states_bytes = watched.checkpoints[index] * watched.step.group_bytes
            by_name[name] = dataclasses.replace(mode, saved_bytes=mode.saved_bytes + states_bytes)
    output_bytes, modes = saved.blocks[index].output_bytes, tuple(by_name.values())
    if not steps[0].reaches(index):
        modes = tuple(map(in_vain, modes))
    cost = _block_cost(modes, output_bytes, 0, steps, index)
    return dataclasses.replace(cost, operators=operators)


def _with_blocks(profile: ChainProfile, step: Step) -> ChainProfile:
    """Where all gradients are there, whole blocks of the caching allocator count for most.

    That is in the update; and all the time, where gradients exist before a step.
    """
    learning = (p for p in step.model.parameters() if p.requires_grad)
    surplus = surplus_bytes((), [p.numel() * p.element_size() for p in learning])
    if getattr(step, "accumulation", False):
        return dataclasses.replace(profile, resident_bytes=profile.resident_bytes + surplus)
    update_bytes = profile.update_working_bytes + surplus
    return dataclasses.replace(profile, update_working_bytes=update_bytes)


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
        unsaved_working_bytes=recomputed.working_bytes(enter, recomputed.next(index)),
        recompute_working_bytes=recomputed.working_bytes(begin, end),
        again_working_bytes=recomputed.again_working_bytes(index),
        gradient_bytes=gradient_bytes,
        forward_flops=normal.flops(enter, leave),
        last_recompute_flops=recomputed.recompute_flops(begin, end),
        forward_s=normal.seconds(enter, leave),
        backward_s=max(0.0, normal.seconds(begin, end) - normal.recompute_s(begin, end)),
        last_recompute_s=recomputed.recompute_s(begin, end),
    )


def _assemble(
    blocks: tuple[BlockCost, ...],
    normal: Watched,
    saved: Saved,
    passed: tuple[tuple[int, ...], Passed],
) -> ChainProfile:
    """The profile, but for what the tail keeps and leaves; see `balance`."""
    last, done, enter = len(blocks), "forward done", normal.at("enter 0")
    borders, others = passed
    lent_bytes = sum(one.size_bytes for one in others.shared if one.is_of_head)
    before_bytes = sum(one.size_bytes for one in others.shared if one.is_of_last_step)
    resident_bytes = normal.resident_bytes - before_bytes
    return ChainProfile(
        blocks=blocks,
        input_bytes=saved.input_bytes,
        resident_bytes=resident_bytes,
        head_saved_bytes=enter.alive_bytes - resident_bytes - saved.input_bytes - lent_bytes,
        head_working_bytes=normal.working_bytes("start", "enter 0"),
        head_backward_working_bytes=normal.working_bytes("backward of the head", "end"),
        tail_saved_bytes=0,
        tail_keeps_input=saved.tail_keeps_input,
        tail_working_bytes=normal.working_bytes(f"leave {last - 1}", done),
        tail_backward_working_bytes=normal.working_bytes(done, f"backward {last - 1}"),
        tail_gradient_bytes=0,
        group_bytes=normal.group_bytes,
        update_working_bytes=normal.working_bytes("end", "updated"),
        borders=tuple(sorted({*borders, *others.apart})),
        shared=others.shared,
        head_keeps_output=saved.head_keeps_output,
    )
