"""The passes of one rank: every method is one, and returns a part of the rank's record."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import torch.distributed as dist

import strategies
from bench.cells.cell import Cell
from bench.cells.training import TrainingStep
from bench.measure import generators, memory
from bench.measure.digests import unlike
from bench.measure.forwards import count_forwards
from bench.measure.gradients import same_states
from bench.measure.memory import step_memory
from bench.ranks import parallel, places
from bench.ranks.communication import LocalFlops
from bench.ranks.judged import Verdict, Whole, collected, told
from bench.ranks.observed import Observation, local, observe
from bench.ranks.parallelise import Split
from bench.ranks.pipeline import PipelinedStep, profiled_step
from bench.run import rounds
from bench.store.parts import (
    Decision,
    Ending,
    Exchange,
    GradientCheck,
    ModelBytes,
    Part,
    Peak,
    Predicted,
    StepFlops,
)
from strategies.profiling.ledger import unique_bytes
from strategies.profiling.standing import standing_bytes
from strategies.schedules.schedule import Schedule


@dataclasses.dataclass
class Passes:
    """A rank's part of a step on the bench.

    Attributes:
        cell: that all ranks measure.
        step: this rank's.
        split: this rank's part of the model.
        whole: on rank 0, what the gathered gradient is compared with.
        none: a step of this rank without the strategy.
    """

    cell: Cell
    step: TrainingStep
    split: Split
    whole: Whole | None
    none: Observation

    def parts(self) -> list[Part]:
        """All passes, in their order."""
        self.prepared = self._prepared()
        with self.prepared.apply():
            seen = observe(self.step, self.cell.seed)
            parts = [*self._judged(seen), self._exchange(seen), *self.memory()]
        return [self._decision(), *parts, *self.time(), self.flops()]

    def _prepared(self) -> strategies.Prepared:
        """What the first rank decides: ranks with other plans of one block would wait for ever."""
        split, way = self.split, parallel.parse(self.cell.parallel, self.cell.ranks)
        if way.tensor > 1 and self.cell.make_strategy().compiled:
            raise strategies.Unsupported(
                f"{self.cell.spec}: torch's compiler cannot partition matrices that ranks share"
            )
        step = profiled_step(self.step)
        prepared = strategies.prepare(split.inner, self.cell.spec, step=step, blocks=split.blocks)
        schedule = Schedule.parse(_first_of_stage(prepared.schedule.render(), split.first_block))
        if schedule == prepared.schedule:
            return prepared
        notes = [*prepared.notes, "the plan is that of the first rank with these blocks"]
        return dataclasses.replace(prepared, schedule=schedule, notes=notes, prediction=None)

    def _decision(self) -> Decision:
        prepared = self.prepared
        kernel = getattr(self.step.workload, "attention", None)
        return Decision(
            plan=None if prepared.strategy.compiled else prepared.schedule.render(),
            storage=str(prepared.storage) if prepared.storage else None,
            attention_kernel=prepared.attention_kernel or kernel,
            notes=[*prepared.notes, *self._of_place()],
        )

    def _of_place(self) -> list[str]:
        """What is said of ranks that have no device each."""
        shared = places.shared(self.cell)
        return ["ranks share a device and talk by gloo, through the host"] if shared else []

    def _judged(self, seen: Observation) -> tuple[Ending, GradientCheck]:
        """Against this rank without the strategy, to the bit; all ranks against one process."""
        none, strategy = self.none, self.prepared.strategy
        verdict = self._verdict()
        changed = unlike(none.gradients, seen.gradients)
        same_loss = seen.loss == none.loss or math.isnan(none.loss)
        state_kept = same_states(none.random_state, seen.random_state)
        problems = {
            verdict.problem or "": verdict.problem is not None,
            "the gradient differs from that of the same ranks without the strategy, of "
            + ", ".join(changed[:5]): strategy.exact and bool(changed),
            "buffers (running statistics) differ": seen.buffers != none.buffers,
            "the random state differs": not state_kept,
        }
        problem = next((sentence for sentence, broken in problems.items() if broken), None)
        return Ending(status="mismatch" if problem else "ok", reason=problem), GradientCheck(
            loss=None if math.isnan(seen.loss) else seen.loss,
            reference_loss=verdict.reference_loss,
            grads_bitwise_equal=not changed and same_loss,
            grad_max_rel_err=verdict.max_rel_err,
            grad_min_cosine=verdict.min_cosine,
            grads_missing=verdict.missing,
            buffers_equal=seen.buffers == none.buffers,
            rng_restored=state_kept,
            parameters_equal=seen.parameters == none.parameters,
            checked_steps=1,
            grad_fp64_rel_err=verdict.fp64_rel_err,
            reference_fp64_rel_err=verdict.reference_fp64_rel_err,
            grad_whole_rel_err=None,
            grad_whole_cosine=None,
        )

    def _verdict(self) -> Verdict:
        found = collected(self.split.gathered())
        prepared, whole = self.prepared, self.whole
        self.whole = None  # copies of every gradient, which the memory is not to be measured with
        floor = prepared.strategy.floor(prepared.chain)
        return told(whole.verdict(found, floor) if whole else None)

    def _exchange(self, seen: Observation) -> Exchange:
        surplus = {kind: seen.calls[kind] - self.none.calls[kind] for kind in seen.calls}
        return Exchange(
            communication_calls=dict(seen.calls),
            communication_bytes=dict(seen.message_bytes),
            recomputed_collectives={kind: count for kind, count in surplus.items() if count},
        )

    def memory(self) -> tuple[Peak, ModelBytes, Predicted]:
        """Peak and after-forward bytes of a step that is not the first, by the allocator."""
        step, prediction = self.step, self.prepared.prediction
        step()
        step.drop_gradients()
        resident_bytes = unique_bytes(map(local, step.resident_tensors()))
        resident_bytes += self.split.bucket_bytes() + standing_bytes(step)
        generators.seed_all(self.cell.seed)
        usage = step_memory(step, settle=self.split.settle)
        mixed, saved_bytes = isinstance(step, PipelinedStep), usage.after_forward_bytes
        parameters = list(step.model.parameters())
        gradients = [local(p.grad) for p in parameters if p.grad is not None]
        peak = Peak(
            peak_allocated_bytes=resident_bytes + usage.peak_bytes,
            peak_reserved_bytes=usage.own_reserved_bytes(resident_bytes),
            peak_operator=usage.peak_operator,
        )
        own = ModelBytes(
            after_forward_allocated_bytes=None if mixed else resident_bytes + saved_bytes,
            saved_after_forward_bytes=None if mixed else saved_bytes,
            parameter_bytes=unique_bytes(map(local, parameters)),
            buffer_bytes=unique_bytes(step.model.buffers()),
            batch_bytes=unique_bytes(step.batch),
            gradient_bytes=unique_bytes(gradients),
            optimizer_bytes=unique_bytes(map(local, step.optimizer_tensors())),
            resident_peak_bytes=memory.resident_peak_bytes(),
        )
        step.drop_gradients()
        return (
            peak,
            own,
            Predicted(predicted_peak_bytes=prediction.peak_bytes if prediction else None),
        )

    def time(self) -> Sequence[Part]:
        """Raw seconds, interleaved with ``none`` on the same ranks, which begin together."""
        if not self.cell.rounds:
            return ()

        @contextlib.contextmanager
        def none() -> Iterator[Callable[[], None]]:
            dist.barrier()
            yield self.step

        @contextlib.contextmanager
        def strategy() -> Iterator[Callable[[], None]]:
            with self.prepared.apply():
                dist.barrier()
                yield self.step

        parts = rounds.timed(self.cell, none, strategy, self.step.device)
        self.step.drop_gradients()
        return parts

    def flops(self) -> StepFlops:
        """What this rank computes, and how often each of its blocks runs forward."""
        if self.prepared.strategy.compiled:
            return StepFlops()
        with (
            count_forwards(self.prepared.chain.blocks) as counts,
            self.prepared.apply(),
            LocalFlops() as counter,
        ):
            loss = self.step.forward()
            forward_flops = counter.flops
            self.step.backward(loss)
        self.step.drop_gradients()
        return StepFlops(
            forward_flops=None if isinstance(self.step, PipelinedStep) else forward_flops,
            step_flops=counter.flops,
            recompute_flops=counter.recompute_flops,
            block_forwards=list(counts),
        )


def _first_of_stage(text: str, first_block: int) -> str:
    """What the first of the ranks that have the same blocks says; all ranks call this together."""
    said: list[tuple[int, str]] = [(0, "")] * dist.get_world_size()
    dist.all_gather_object(said, (first_block, text))
    return next(other for block, other in said if block == first_block)
