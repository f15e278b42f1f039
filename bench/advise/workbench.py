"""One model's step on fake tensors, built once, and traced under one strategy after another."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import msgspec
from torch._subclasses.fake_tensor import FakeTensorMode

import strategies
from bench.cells.cell import Cell
from bench.cells.training import TrainingStep
from bench.devices import accelerators
from bench.devices.accelerators import Accelerator
from bench.simulate import semantics
from bench.simulate.record import fit_in, missing_bytes
from bench.simulate.run import Simulation, fake_step, trace_step, valueless
from bench.simulate.trace import Trace
from bench.store.parts import Fit
from strategies.contract.budgeted import Budgeted
from strategies.profiling.free_blocks import GRANULE_BYTES


@dataclasses.dataclass(frozen=True, eq=False)
class Workbench:
    """A cell's step, modelled; on a real device, too, whose memory it then tells about.

    Attributes:
        cell: checked, under no strategy.
        room_bytes: that the step may take.
    """

    cell: Cell
    room_bytes: int

    @property
    def device(self) -> Accelerator | None:
        """The modelled one; ``None`` where the device is here."""
        return accelerators.get(self.cell.device) if self.cell.simulated else None

    @property
    def as_cuda(self) -> bool:
        """Whether kernels are to save what an accelerator's do."""
        return self.cell.device != "cpu"

    @functools.cached_property
    def mode(self) -> FakeTensorMode:
        """Of all fake tensors here."""
        return FakeTensorMode()

    @functools.cached_property
    def step(self) -> TrainingStep:
        """The step; its optimizer's state exists."""
        with valueless():
            return fake_step(self.cell, self.mode, as_cuda=self.as_cuda)

    def simulate(self, spec: str) -> Simulation:
        """The step under a strategy; what `bench.simulate.run.trace_cell` gives for that cell.

        Raises:
            Unsupported: the strategy cannot run on this model.
            NeedsValueError: the model needs a tensor's value.
        """
        strategy = strategies.get(spec)
        chain = self._chain(type(strategy)) if isinstance(strategy, Budgeted) else None
        step = self.step  # built outside of the mode: some models need values to be built
        with valueless(), self.mode:
            try:
                return trace_step(strategy, step, chain=chain, as_cuda=self.as_cuda)
            finally:
                step.drop_gradients()

    @functools.cache  # noqa: B019 - as long as the workbench
    def _chain(self, kind: type[Budgeted]) -> strategies.Chain:
        """The blocks with what a kind of strategy needs to know, whatever the budget."""
        step, kernels = self.step, semantics.cuda() if self.as_cuda else semantics.cpu()
        with valueless(), self.mode, kernels:
            return strategies.profiled(step.model, kind(), step, blocks=step.workload.blocks)

    def workspaces(self, trace: Trace) -> Sequence[int]:
        """Bytes that a library keeps, each on its own."""
        return trace.workspaces(self.device) if self.device else ()

    @property
    def memory_bytes(self) -> int:
        """Of the modelled device; of one that is here, the room."""
        return self.device.memory_bytes if self.device else self.room_bytes

    def fit(self, trace: Trace) -> Fit:
        """Whether a loop of such steps fits the device, and its peak into the room."""
        fit = fit_in(trace, self.memory_bytes, self.workspaces(trace))
        if fit.status != "ok" or fit.peak_allocated_bytes <= self.room_bytes:
            return fit
        reason = (
            f"its peak is {fit.peak_allocated_bytes:,} bytes, and {self.room_bytes:,} are given"
        )
        return msgspec.structs.replace(fit, status="oom", reason=reason)

    def missing_bytes(self, trace: Trace) -> int:
        """How much it lacks; 0: it fits."""
        lacking_bytes = missing_bytes(trace, self.memory_bytes, self.workspaces(trace))
        return max(lacking_bytes, peak_bytes_of(trace) - self.room_bytes, 0)

    def varied(self, **fields: str) -> Workbench:
        """The same with other fields of its cell."""
        cell = msgspec.structs.replace(self.cell, **fields)
        return dataclasses.replace(self, cell=cell)


def peak_bytes_of(trace: Trace) -> int:
    """Most bytes allocated at once, as `run` records it."""
    return max(trace.alive_bytes(GRANULE_BYTES))
