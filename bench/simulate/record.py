"""What a simulated cell's record says: whether it fits, where its peak is, how long it takes."""

from __future__ import annotations

import msgspec

from bench.cells.cell import Cell
from bench.devices import accelerators
from bench.measure.memory import resident_peak_bytes
from bench.simulate.allocator import OutOfMemoryError
from bench.simulate.free_blocks import GRANULE_BYTES
from bench.simulate.peak import describe_peak
from bench.simulate.replay import replay
from bench.simulate.run import Simulation, residents, trace_cell
from bench.simulate.trace import Trace
from bench.store.parts import (
    Decision,
    Fit,
    Missing,
    ModelBytes,
    ModelledTimes,
    Part,
    Status,
    StepFlops,
)
from strategies.profiling.ledger import unique_bytes


def simulate(cell: Cell) -> list[Part]:
    """The parts of a simulated cell's record."""
    device = accelerators.get(cell.device)
    simulation = trace_cell(cell)
    fit = fit_in(simulation.trace, device.memory_bytes)
    if simulation.missing:
        reason = f"no gradient for {', '.join(simulation.missing)}"
        fit = msgspec.structs.replace(fit, status="mismatch", reason=reason)
    return [
        _decision(simulation),
        Missing(grads_missing=simulation.missing),
        fit,
        describe_peak(simulation.trace, simulation.blocks),
        ModelledTimes(modelled_step_s=simulation.step_s(device)),
        _model_bytes(simulation),
        _flops(simulation.trace),
    ]


def fit_in(recorded: Trace, memory_bytes: int) -> Fit:
    """What the caching allocator says: status, reason, peaks.

    A step that does not fit is replayed without a limit, to say how much is missing: the real
    allocator gives its cache back before it gives up, so only what it could not give back counts.
    """
    events = [(event.life, event.delta_bytes) for event in recorded.events]
    peak_bytes = max(recorded.alive_bytes(GRANULE_BYTES))
    status: Status = "ok"
    reason = None
    try:
        reserved_bytes = replay(events, memory_bytes)
    except OutOfMemoryError as error:
        status, reserved_bytes = "oom", replay(events)
        missing_bytes = max(peak_bytes - memory_bytes, error.missing_bytes)
        reason = (
            f"needs {(memory_bytes + missing_bytes) / 1e9:.2f} GB of {memory_bytes / 1e9:.2f} GB:"
            f" {missing_bytes / 1e9:.3g} GB missing"
        )
    return Fit(
        status=status,
        reason=reason,
        peak_allocated_bytes=peak_bytes,
        peak_reserved_bytes=reserved_bytes,
    )


def _decision(simulation: Simulation) -> Decision:
    prepared, workload = simulation.prepared, simulation.step.workload
    return Decision(
        plan=prepared.schedule.render(),
        storage=str(prepared.storage) if prepared.storage else None,
        attention_kernel=prepared.attention_kernel or getattr(workload, "attention", None),
        notes=list(prepared.notes),
    )


def _model_bytes(simulation: Simulation) -> ModelBytes:
    step, recorded = simulation.step, simulation.trace
    parameters = list(step.model.parameters())
    resident = residents(step)
    resident_bytes = unique_bytes(tensor for tensors in resident.values() for tensor in tensors)
    return ModelBytes(
        after_forward_allocated_bytes=recorded.after_forward_bytes(GRANULE_BYTES),
        saved_after_forward_bytes=recorded.after_forward_bytes() - resident_bytes,
        parameter_bytes=unique_bytes(parameters),
        buffer_bytes=unique_bytes(step.model.buffers()),
        batch_bytes=unique_bytes(step.batch),
        gradient_bytes=unique_bytes([p.grad for p in parameters if p.grad is not None]),
        optimizer_bytes=unique_bytes(resident["optimizer state"]),
        resident_peak_bytes=resident_peak_bytes(),
    )


def _flops(recorded: Trace) -> StepFlops:
    return StepFlops(
        forward_flops=recorded.forward_flops,
        step_flops=recorded.step_flops,
        recompute_flops=recorded.recompute_flops,
    )
