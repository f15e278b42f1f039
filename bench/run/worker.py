"""One cell, measured in this process. `bench.run.executor` gives it a process of its own.

Order: gradients first (a wrong strategy has no other figures worth reading), then memory, then
FLOPs, then time; each in a pass of its own, so that no instrument slows a timed step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

import strategies
from bench.cells.cell import Cell
from bench.cells.training import TrainingStep
from bench.measure import gradients, memory
from bench.measure.forwards import count_forwards
from bench.measure.memory import step_memory
from bench.measure.time import interleave
from bench.run.blank import blank
from bench.store.records import Record
from strategies.profiling.flops import count_flops
from strategies.profiling.ledger import unique_bytes
from strategies.profiling.profiler import profile_chain
from strategies.schedules.interpreter import Prediction, predict
from strategies.schedules.schedule import ALL


def measure(cell: Cell) -> Record:
    """Measure, or simulate, one cell in this process.

    Raises:
        strategies.Unsupported: the strategy cannot run on this workload or device.
    """
    started = time.perf_counter()
    record = blank(cell)
    if cell.simulated:
        from bench.simulate.run import simulate  # noqa: PLC0415 - real cells do without

        found = simulate(cell)
    else:
        found = _measured(cell)
    duration_s = round(time.perf_counter() - started, 3)
    return msgspec.structs.replace(record, duration_s=duration_s, **found)


def _measured(cell: Cell) -> dict[str, Any]:
    torch.set_num_threads(cell.threads)
    step = _build(cell)
    blocks = step.workload.blocks
    chain = strategies.profiled(step.model, cell.spec, step, blocks=blocks)
    bench = _Bench(cell, step, chain)
    with bench.applied() as applied:
        described = bench.describe(applied)
    found: dict[str, Any] = {**described, **bench.gradients()}
    found |= bench.predicted()
    found |= bench.memory()
    found |= bench.flops()
    found |= bench.time()
    reason = found.pop("problem")
    return {**found, "reason": reason, "status": "mismatch" if reason else "ok"}


def _build(cell: Cell, **options: Any) -> TrainingStep:
    workload = cell.make_workload().with_options(**options)
    device = torch.device(cell.device)
    return TrainingStep.build(workload, device, cell.precision, cell.optimizer)


@dataclasses.dataclass
class _Bench:
    """A cell's model on the bench; every method is one pass and returns record fields."""

    cell: Cell
    step: TrainingStep
    chain: strategies.Chain

    @contextlib.contextmanager
    def applied(self) -> Iterator[strategies.Applied]:
        """The model under the cell's strategy."""
        strategy = self.cell.make_strategy()
        with strategies.apply(self.step.model, strategy, chain=self.chain) as applied:
            yield applied

    def describe(self, applied: strategies.Applied) -> dict[str, Any]:
        """What the strategy does to this model."""
        kernel = getattr(self.step.workload, "attention", None)
        return {
            "plan": None if applied.strategy.compiled else applied.schedule.render(),
            "storage": str(applied.storage) if applied.storage else None,
            "attention_kernel": applied.attention_kernel or kernel,
            "notes": list(applied.notes),
        }

    def gradients(self) -> dict[str, Any]:
        """The strategy's step against the model as it is, from the same seed."""
        reference = gradients.run(self.step, self.cell.seed)
        with self.applied() as applied:
            chosen = applied.strategy
            outcome = gradients.run(self.step, self.cell.seed)
        result = gradients.compare(reference, outcome)
        return {
            "problem": result.problem(exact=chosen.exact, compiled=chosen.compiled),
            "loss": outcome.loss.item(),
            "reference_loss": reference.loss.item(),
            "grads_bitwise_equal": result.bitwise_equal,
            "grad_max_rel_err": result.max_rel_err,
            "grad_min_cosine": result.min_cosine,
            "grads_missing": result.missing,
            "buffers_equal": result.buffers_equal,
            "rng_restored": result.random_state_equal,
        }

    def predicted(self) -> dict[str, Any]:
        """What the plan interpreter says, from a profile of the blocks as the strategy has them.

        Kernels and sub-modules are the strategy's; the plan and its storage are interpreted. What a
        compiler recomputes follows no plan.
        """
        strategy = self.cell.make_strategy()
        if strategy.compiled:
            return {}
        undos = list(strategy.install(self.step.model, self.chain))
        schedule = strategy.schedule(self.chain).split(self.chain.borders)
        names = {index: name for index, name in enumerate(schedule.modes) if name != ALL}
        try:
            profile = profile_chain(self.step, self.chain, assigned=[names], scratch=True)
        finally:
            while undos:
                undos.pop()()
        prediction = predict(profile, schedule, self._resting_bytes(strategy))
        return _prediction_fields(prediction)

    def _resting_bytes(self, strategy: strategies.Strategy) -> list[int] | None:
        storage = strategy.storage()
        if storage is None:
            return None
        return [storage.device_bytes(b) for b in _boundaries(self.step, self.chain)]

    def memory(self) -> dict[str, Any]:
        """Peak and after-forward bytes, by the allocator."""
        step = self.step
        if self.cell.optimizer != "none":
            step()  # the optimizer's state exists from its first step
        step.drop_gradients()
        resident_bytes = unique_bytes(step.resident_tensors())
        with self.applied():
            taken = step_memory(step)
            parameters = list(step.model.parameters())
            gradient_bytes = unique_bytes([p.grad for p in parameters if p.grad is not None])
        step.drop_gradients()
        return {
            "peak_allocated_bytes": resident_bytes + taken.peak_bytes,
            "peak_operator": taken.peak_operator,
            "peak_reserved_bytes": taken.reserved_bytes,
            "after_forward_allocated_bytes": resident_bytes + taken.after_forward_bytes,
            "saved_after_forward_bytes": taken.after_forward_bytes,
            "parameter_bytes": unique_bytes(parameters),
            "buffer_bytes": unique_bytes(step.model.buffers()),
            "batch_bytes": unique_bytes(step.batch),
            "gradient_bytes": gradient_bytes,
            "optimizer_bytes": unique_bytes(step.optimizer_tensors()),
            "resident_peak_bytes": memory.resident_peak_bytes(),
        }

    def flops(self) -> dict[str, Any]:
        """FLOPs by counting, and how often each block ran forward."""
        if self.cell.make_strategy().compiled:
            return self._compiled_flops()
        with count_forwards(self.chain.blocks) as counts, self.applied():
            flops = count_flops(self.step.forward, self.step.backward)
        self.step.drop_gradients()
        return {**dataclasses.asdict(flops), "block_forwards": list(counts)}

    def _compiled_flops(self) -> dict[str, Any]:
        """FLOPs where forward work in backward looks like any other: recompute is the surplus.

        The reference is ``none`` on the same model, in the same way.
        """
        if not self.cell.make_strategy().counted:
            return {}
        none = count_flops(self.step.forward, self.step.backward)
        with self.applied():
            flops = count_flops(self.step.forward, self.step.backward)
        self.step.drop_gradients()
        surplus = flops.step_flops - none.step_flops
        return dataclasses.asdict(flops) | {"recompute_flops": surplus}

    def time(self) -> dict[str, Any]:
        """Raw seconds, interleaved with ``none`` (with math attention, if there is a choice)."""
        if not self.cell.rounds:
            return {}
        reference = self._reference_step()

        @contextlib.contextmanager
        def none() -> Iterator[Callable[[], None]]:
            yield reference

        @contextlib.contextmanager
        def strategy() -> Iterator[Callable[[], None]]:
            with self.applied():
                yield self.step

        gc.collect()
        contenders = {"none": none, "strategy": strategy}
        warmup = interleave(contenders, self.cell.warmup, self.step.device)
        seconds = interleave(contenders, self.cell.rounds, self.step.device)
        return {
            **self._modelled(),
            "step_s": seconds["strategy"],
            "none_step_s": seconds["none"],
            "warmup_step_s": warmup["strategy"],
        }

    def _modelled(self) -> dict[str, Any]:
        """What the roofline of this CPU says, to be judged by what was measured."""
        if self.step.device.type != "cpu" or self.cell.make_strategy().compiled:
            return {}
        from bench.simulate import calibrate  # noqa: PLC0415 - untimed cells do without

        options = dict(self.cell.options)
        if "attention" in options:
            options["attention"] = "math"
        none = msgspec.structs.replace(self.cell, spec="none", options=options)
        return {
            "modelled_step_s": calibrate.modelled_cpu_step_s(self.cell),
            "modelled_none_step_s": calibrate.modelled_cpu_step_s(none),
        }

    def _reference_step(self) -> TrainingStep:
        if getattr(self.step.workload, "attention", "math") == "math":
            return self.step
        return _build(self.cell, attention="math")


def _prediction_fields(prediction: Prediction) -> dict[str, Any]:
    return {
        "predicted_peak_bytes": prediction.peak_bytes,
        "predicted_saved_after_forward_bytes": prediction.saved_bytes,
        "predicted_recompute_flops": prediction.recompute_flops,
    }


def _boundaries(step: TrainingStep, chain: strategies.Chain) -> list[Tensor]:
    """Each block's input, as empty tensors of the same kind (values are of no interest)."""
    found: list[Tensor] = []

    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        del module
        found.append(next(t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)))

    handles = [b.register_forward_pre_hook(hook, with_kwargs=True) for b in chain.blocks]
    try:
        with torch.no_grad():
            step.forward()
    finally:
        for handle in handles:
            handle.remove()
    return found
