"""Steps on fake tensors that share a model where it is the same: to build one takes long."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import msgspec
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from bench.cells.cell import Cell
from bench.cells.training import TrainingStep, cast
from bench.simulate.run import Simulation, fake_step, trace_step, valueless


@dataclasses.dataclass(frozen=True)
class Steps:
    """Of cells that are simulated.

    Attributes:
        mode: of all their tensors.
    """

    mode: FakeTensorMode = dataclasses.field(default_factory=FakeTensorMode)
    _built: dict[bytes, TrainingStep] = dataclasses.field(default_factory=dict, init=False)

    def simulate(self, cell: Cell) -> Simulation:
        """What `bench.simulate.run.trace_cell` gives for a cell; its gradients are dropped.

        Raises:
            Unsupported: the strategy cannot run on this workload.
            NeedsValueError: the model needs a tensor's value; names the line.
        """
        with valueless():
            step = self._step(cell)
            with self.mode:
                try:
                    return trace_step(cell.make_strategy(), step)
                finally:
                    step.drop_gradients()

    def _step(self, cell: Cell) -> TrainingStep:
        workload = cell.make_workload()
        setting = (workload.name, workload.model_options(), cell.precision, cell.optimizer)
        key = msgspec.json.encode(setting)
        if key not in self._built:
            self._built[key] = fake_step(cell, self.mode)
            return self._built[key]
        step = copy.copy(self._built[key])  # with the optimizer and its state
        step.workload, step.batch = workload, self._batch(workload.make_batch(), cell.precision)
        return step

    def _batch(self, real: Any, precision: str) -> Any:
        with self.mode:
            return tree_map_only(
                Tensor, lambda tensor: cast(self.mode.from_tensor(tensor), precision), real
            )
