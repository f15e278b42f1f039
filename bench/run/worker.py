"""One cell, measured in this process. `bench.run.executor` gives it a process of its own.

Order: the reference, from a model that no strategy touches; then, on a model of the strategy's own,
three training steps and memory, time, and last FLOPs, which show whether the strategy still does
what it did at first. Each instrument has a pass of its own, so that none slows a timed step, and
every pass is held against the reference (`bench.measure.gate`). Each says what it found as a part
of the record (`bench.store.parts`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
import torch

import strategies
from bench.cells.cell import Cell
from bench.cells.training import TrainingStep, unmoved
from bench.measure import generators, memory, reference
from bench.measure.forwards import count_forwards
from bench.measure.gate import Gate, Promise
from bench.measure.memory import step_memory
from bench.measure.reference import MEASURED
from bench.run import rounds
from bench.run.blank import blank
from bench.run.predicted import predicted
from bench.run.refusals import build, refuse
from bench.run.verdict import verdict
from bench.store.parts import (
    Decision,
    ModelBytes,
    ModelledTimes,
    Part,
    Peak,
    Predicted,
    StepFlops,
)
from bench.store.records import Record
from strategies.contract.settled import settled
from strategies.profiling.flops import Flops, count_flops
from strategies.profiling.ledger import unique_bytes
from strategies.profiling.standing import standing_bytes
from strategies.schedules.modes import Compilation

UNREPEATABLE = (
    "the plain model itself gives other bits each time on this device: gradients are held to"
    " rounding, against fp64"
)


def measure(cell: Cell) -> Record:
    """Measure, or simulate, one cell in this process.

    Raises:
        strategies.Unsupported: the strategy cannot run on this workload or device.
    """
    started = time.perf_counter()
    record = blank(cell).with_parts(*_parts(cell))
    return msgspec.structs.replace(record, duration_s=round(time.perf_counter() - started, 3))


def _parts(cell: Cell) -> list[Part]:
    if cell.simulated:
        from bench.simulate.record import simulate  # noqa: PLC0415 - real cells do without

        return simulate(cell)
    return _measured(cell)


def _measured(cell: Cell) -> list[Part]:
    """Held to the bit, where that is promised and the plain model keeps to it itself."""
    torch.set_num_threads(cell.threads)
    strategy = cell.make_strategy()
    refuse(cell, strategy)
    bench = _bench_of(cell, exact=strategy.exact)
    parts = _passes(bench)
    if not (bench.gate.problem and strategy.exact):
        return parts
    del bench
    if reference.repeats(build(cell), cell.seed):
        return parts
    return _passes(_bench_of(cell, exact=False))


def _passes(bench: _Bench) -> list[Part]:
    return [
        bench.decision(),
        *bench.memory(),
        bench.predicted(),
        *bench.time(),
        bench.flops(),
        bench.modelled(),
        *verdict(bench.gate),
    ]


def _bench_of(cell: Cell, *, exact: bool) -> _Bench:
    """The reference first, then the strategy, on a model of its own.

    Args:
        cell: to be measured.
        exact: whether bits are compared.
    """
    seen = reference.observe(build(cell), cell.seed, exact=exact)
    step = build(cell)
    generators.seed_all(cell.seed)
    # Who times the strategy times what its user gets: what was the fastest on the example.
    settle = functools.partial(settled, step=step) if cell.rounds else None
    with unmoved(step):
        prepared = strategies.prepare(
            step.model, cell.spec, step=step, blocks=step.workload.blocks, settle=settle
        )
    return _Bench(cell, step, prepared, Gate(seen, step, _promise_of(prepared, exact=exact)))


def _promise_of(prepared: strategies.Prepared, *, exact: bool) -> Promise:
    strategy = prepared.strategy
    compiled = strategy.compiled or any(map(Compilation.parse, prepared.schedule.modes))
    floor = strategy.floor(prepared.chain)
    return Promise(exact, compiled, floor, repeatable=exact == strategy.exact)


@dataclasses.dataclass
class _Bench:
    """A cell's model on the bench; every method is one pass and returns a part of the record.

    Attributes:
        gate: that every pass is held against.
        forwards: of blocks, in each step that counted them.
    """

    cell: Cell
    step: TrainingStep
    prepared: strategies.Prepared
    gate: Gate
    forwards: list[int] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.check_untouched("preparing the strategy")

    def decision(self) -> Decision:
        """What the strategy does to this model."""
        prepared = self.prepared
        kernel = getattr(self.step.workload, "attention", None)
        return Decision(
            plan=None if prepared.strategy.opaque else prepared.schedule.render(),
            storage=str(prepared.storage) if prepared.storage else None,
            attention_kernel=prepared.attention_kernel or kernel,
            notes=[*prepared.notes, *([] if self.gate.promise.repeatable else [UNREPEATABLE])],
        )

    def predicted(self) -> Predicted:
        """What the plan interpreter says: nothing where blocks run twice, which is no chain."""
        try:
            return predicted(self.step, self.prepared, compiled=self.gate.promise.compiled)
        except strategies.Unsupported:
            return Predicted()

    def memory(self) -> tuple[Peak, ModelBytes]:
        """Three training steps, and peak and after-forward bytes of the next, by the allocator."""
        step = self.step
        self.gate.begin_untouched()
        with self._counting() as counts, self.prepared.apply():
            self.gate.check_untouched("applying the strategy")
            peaks_bytes = [self._trained(number, counts) for number in range(1, MEASURED)]
            resident_bytes = unique_bytes(step.resident_tensors()) + standing_bytes(step)
            self.gate.begin(MEASURED)  # keeps copies, which the step below is not to count
            usage = step_memory(step, self.gate.forward_of(MEASURED))
            self._count(counts)
            self.gate.scale_again()
            self.gate.check_measured(None, "the step whose memory is measured")
            gradients = (p.grad for p in step.model.parameters() if p.grad is not None)
            gradient_bytes = unique_bytes(gradients)
        known_bytes = [peak for peak in peaks_bytes if peak is not None]
        self.gate.check_steady([*known_bytes, usage.peak_bytes] if known_bytes else [])
        step.drop_gradients()
        peak = Peak(
            peak_allocated_bytes=resident_bytes + usage.peak_bytes,
            peak_reserved_bytes=usage.own_reserved_bytes(resident_bytes),
            peak_operator=usage.peak_operator,
        )
        return peak, ModelBytes(
            after_forward_allocated_bytes=resident_bytes + usage.after_forward_bytes,
            saved_after_forward_bytes=usage.after_forward_bytes,
            parameter_bytes=unique_bytes(step.model.parameters()),
            buffer_bytes=unique_bytes(step.model.buffers()),
            batch_bytes=unique_bytes(step.batch_tensors()),
            gradient_bytes=gradient_bytes,
            optimizer_bytes=unique_bytes(step.optimizer_tensors()),
            resident_peak_bytes=memory.resident_peak_bytes(),
        )

    def _trained(self, number: int, counts: list[int]) -> int | None:
        """A training step; of the last, the peak: attributes are examined before it."""
        step, gate, peak_bytes = self.step, self.gate, None
        gate.begin(number)
        if number == MEASURED - 1 and step.device.type == "cpu":
            usage = step_memory(step, gate.forward_of(number), updating=False)
            peak_bytes = usage.peak_bytes if step.update_rule is None else None
        else:
            step.backward(gate.forward_of(number)())
        self._count(counts)
        gate.check(number)
        gate.update(number)
        return peak_bytes

    def _counting(self) -> contextlib.AbstractContextManager[list[int]]:
        """Counts forwards of blocks, unless a compiler would see the counter."""
        return count_forwards(() if self.gate.promise.compiled else self.prepared.chain.blocks)

    def _count(self, counts: list[int]) -> None:
        """Keep the forwards of one step."""
        if counts:
            self.forwards.append(sum(counts))
            counts[:] = [0] * len(counts)

    def flops(self) -> StepFlops:
        """FLOPs by counting, and how often each block ran forward."""
        if self.prepared.strategy.compiled:
            return self._compiled_flops()
        with count_forwards(self.prepared.chain.blocks) as counts:
            flops = self._counted()
        block_forwards = list(counts)
        if self.forwards:
            self._count(counts)
        self.gate.check_steady([], self.forwards)
        return StepFlops(
            forward_flops=flops.forward_flops,
            step_flops=flops.step_flops,
            recompute_flops=flops.recompute_flops,
            block_forwards=block_forwards,
        )

    def _counted(self) -> Flops:
        """The last pass: what recomputed in the first steps must recompute still."""
        with self.prepared.apply():
            flops = count_flops(self.gate.forward_of(MEASURED), self.step.backward)
            self.gate.check_measured(None, "the step whose FLOPs are counted")
        self.step.drop_gradients()
        return flops

    def _compiled_flops(self) -> StepFlops:
        """FLOPs where forward work in backward looks like any other: recompute is the surplus.

        The reference is ``none`` on the same model, in the same way.
        """
        if not self.prepared.strategy.counted:
            return StepFlops()
        none = count_flops(self.gate.forward_of(MEASURED), self.step.backward)
        flops = self._counted()
        return StepFlops(
            forward_flops=flops.forward_flops,
            step_flops=flops.step_flops,
            recompute_flops=flops.step_flops - none.step_flops,
        )

    def time(self) -> Sequence[Part]:
        """Raw seconds, interleaved with ``none`` (with math attention, if there is a choice)."""
        if not self.cell.rounds:
            return ()
        plain = self._reference_step()

        @contextlib.contextmanager
        def none() -> Iterator[Callable[[], None]]:
            self.gate.begin(MEASURED)
            yield plain

        @contextlib.contextmanager
        def strategy() -> Iterator[Callable[[], None]]:
            self.gate.begin(MEASURED)
            with self.prepared.apply():
                yield self.step
                self.gate.check_measured(self.step.loss, "a timed step")

        gc.collect()
        parts = rounds.timed(self.cell, none, strategy, self.step.device)
        self.step.drop_gradients()
        return parts

    def modelled(self) -> ModelledTimes:
        """What the roofline of this CPU says, to be judged by what was measured."""
        timed = self.cell.rounds and self.step.device.type == "cpu"
        if not timed or self.prepared.strategy.opaque:
            return ModelledTimes()
        from bench.simulate import calibrate  # noqa: PLC0415 - untimed cells do without

        return calibrate.modelled_times(self.cell)

    def _reference_step(self) -> TrainingStep:
        if getattr(self.step.workload, "attention", "math") == "math":
            return self.step
        return build(self.cell, attention="math")
