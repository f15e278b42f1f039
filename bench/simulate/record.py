"""What a simulated cell's record says: whether it fits, where its peak is, how long it takes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench.cells.cell import Cell
from bench.devices import accelerators
from bench.measure.memory import resident_peak_bytes
from bench.simulate.peak import describe_peak
from bench.simulate.replay import Usage, steady
from bench.simulate.run import Simulation, residents, trace_cell
from bench.simulate.trace import Trace
from bench.simulate.traced_step import held
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
from strategies.profiling.caching_allocator import OutOfMemoryError
from strategies.profiling.free_blocks import GRANULE_BYTES
from strategies.profiling.ledger import unique_bytes


def simulate(cell: Cell) -> list[Part]:
    """The parts of a simulated cell's record."""
    device = accelerators.get(cell.device)
    simulation = trace_cell(cell)
    fit = fit_in(simulation.trace, device.memory_bytes, simulation.trace.workspaces(device))
    if simulation.missing:
        reason = f"no gradient for {', '.join(simulation.missing)}"
        fit = msgspec.structs.replace(fit, status="mismatch", reason=reason)
    times = ModelledTimes(modelled_step_s=simulation.step_s(device))
    return [fit, times, *parts_of(simulation)]


def parts_of(simulation: Simulation) -> list[Part]:
    """What a trace says whatever the device."""
    return [
        _decision(simulation),
        Missing(grads_missing=simulation.missing),
        describe_peak(simulation.trace, simulation.blocks),
        _model_bytes(simulation),
        _flops(simulation.trace),
    ]


def fit_in(
    recorded: Trace,
    memory_bytes: int,
    workspaces: Sequence[int] = (),
    *,
    expandable: bool = False,
    taken_bytes: int = 0,
) -> Fit:
    """What the caching allocator says of a loop of such steps: status, reason, peaks.

    A loop that does not fit is replayed without a limit, to say how much is missing: the real
    allocator gives its cache back before it gives up, so only what it could not give back counts.

    Args:
        recorded: one step.
        memory_bytes: of the device.
        workspaces: bytes that libraries keep, each on its own.
        expandable: whether it must fit with expandable segments; without them otherwise.
        taken_bytes: of the memory, by what is reserved elsewhere.
    """
    free, grown = (steady(recorded, workspaces=workspaces, expandable=one) for one in (False, True))
    held_bytes = (grown if expandable else free).reserved_bytes
    status: Status = "ok"
    reason = None
    left_bytes = memory_bytes - taken_bytes
    try:
        if held_bytes > left_bytes:  # else no limit is met, and all is as without one
            held_bytes = steady(
                recorded, left_bytes, workspaces=workspaces, expandable=expandable
            ).reserved_bytes
    except OutOfMemoryError as error:
        lacking_bytes = _lacking_bytes(free, left_bytes, error)
        status = "oom"
        reason = (
            f"needs {(memory_bytes + lacking_bytes) / 1e9:.2f} GB of {memory_bytes / 1e9:.2f} GB:"
            f" {lacking_bytes / 1e9:.3g} GB missing"
        )
    return Fit(
        status=status,
        reason=reason,
        peak_allocated_bytes=max(recorded.alive_bytes(GRANULE_BYTES)),
        peak_reserved_bytes=held_bytes + taken_bytes,
        max_allocated_bytes=free.allocated_bytes + taken_bytes,
        steady_reserved_bytes=free.reserved_bytes + taken_bytes,
        expandable_reserved_bytes=grown.reserved_bytes + taken_bytes,
        workspace_bytes=sum(workspaces),
    )


def missing_bytes(
    recorded: Trace, memory_bytes: int, workspaces: Sequence[int] = (), *, expandable: bool = False
) -> int:
    """How much a loop of such steps lacks; 0: it fits. Arguments as of `fit_in`."""
    try:
        steady(recorded, memory_bytes, workspaces=workspaces, expandable=expandable)
    except OutOfMemoryError as error:
        return _lacking_bytes(steady(recorded, workspaces=workspaces), memory_bytes, error)
    return 0


def _lacking_bytes(free: Usage, memory_bytes: int, error: OutOfMemoryError) -> int:
    """Of a loop that does not fit: what it needs without a limit, or could not be given."""
    return max(free.allocated_bytes - memory_bytes, error.missing_bytes)


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
    gradients = [p.grad for p in step.model.parameters() if p.grad is not None]
    resident = residents(step)
    resident_bytes = unique_bytes(tensor for tensors in resident.values() for tensor in tensors)
    return ModelBytes(
        after_forward_allocated_bytes=recorded.after_forward_bytes(GRANULE_BYTES),
        saved_after_forward_bytes=recorded.after_forward_bytes() - resident_bytes,
        parameter_bytes=unique_bytes(map(held, step.model.parameters())),
        buffer_bytes=unique_bytes(step.model.buffers()),
        batch_bytes=unique_bytes(step.batch_tensors()),
        gradient_bytes=unique_bytes(map(held, gradients)),
        optimizer_bytes=unique_bytes(resident["optimizer state"]),
        resident_peak_bytes=resident_peak_bytes(),
    )


def _flops(recorded: Trace) -> StepFlops:
    return StepFlops(
        forward_flops=recorded.forward_flops,
        step_flops=recorded.step_flops,
        recompute_flops=recorded.recompute_flops,
    )
