"""The step of one rank; of a rank that is a stage of a pipeline, by torch's own schedule (1F1B)."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from bench.cells.cell import Cell
from bench.cells.training import TrainingStep
from bench.ranks.parallel import Parallel
from bench.ranks.parallelise import Split
from bench.workloads.base import Batch, Workload
from strategies.profiling.step import ExampleStep, Step


@dataclasses.dataclass
class PipelinedStep(TrainingStep):
    """A stage's step: forward and backward of its micro-batches are interleaved.

    Attributes:
        schedule: that runs them.
        first: whether the stage takes the batch.
        last: whether it has the loss.
    """

    schedule: Any = None
    first: bool = False
    last: bool = False

    def forward(self) -> Tensor:
        """The whole step, backward too: the mean loss, NaN on a stage that has none."""
        losses: list[Tensor] = []
        inputs, targets = self.batch
        with self.autocast():
            self.schedule.step(
                *([inputs] if self.first else []),
                target=targets if self.last else None,
                losses=losses,
                return_outputs=False,
            )
        return torch.stack(losses).mean().detach() if losses else torch.tensor(float("nan"))

    def backward(self, loss: Tensor) -> None:
        """It was a part of `forward`."""


class _Known(nn.Module):
    """A model whose output is there already."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, ids: Tensor) -> Tensor:
        """The output."""
        del ids
        return self.output


def step_of(
    cell: Cell,
    split: Split,
    batch: Batch,
    *,
    device: torch.device,
    parallel: Parallel,
    mesh: DeviceMesh,
) -> TrainingStep:
    """A rank's step.

    Args:
        cell: names precision and optimizer.
        split: its part of the model.
        batch: its part of the batch.
        device: its own.
        parallel: how ranks share the step.
        mesh: of the ranks.
    """
    workload = cell.make_workload()
    given = (workload, split.model, batch, device, cell.precision, cell.optimizer)
    if parallel.pipeline == 1:
        return TrainingStep(*given)
    group, stage = mesh["pp"].get_group(), mesh["pp"].get_local_rank()
    part = PipelineStage(split.model, stage, parallel.pipeline, device, group=group)
    schedule = Schedule1F1B(part, parallel.parts, loss_fn=_loss_of(workload))
    step = PipelinedStep(*given)
    step.schedule, step.first, step.last = schedule, part.is_first, part.is_last
    return step


def _loss_of(workload: Workload) -> Any:
    """The workload's loss of an output, as a schedule calls it."""

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        return workload.loss(_Known(output), (targets, targets))

    return loss


def profiled_step(step: TrainingStep, split: Split, parts: int) -> Step:
    """What a strategy profiles blocks on: the rank's step, without what others must join in.

    A profile runs parts of a step, which ranks that wait for each other cannot share; so it is of
    the model inside DistributedDataParallel, and of one micro-batch of a pipeline's stage.

    Args:
        step: the rank's.
        split: the rank's part of the model.
        parts: micro-batches of a step.
    """
    if isinstance(step, PipelinedStep):
        example = step.batch[0].chunk(parts)[0]
        if not step.first:
            example = _stream(step.workload, len(example), step)
        return ExampleStep(split.inner, example, optimizer=step.update_rule, keep_output=False)
    if split.inner is split.model:
        return step
    return around(step, split.inner)


def around(step: TrainingStep, inner: nn.Module) -> TrainingStep:
    """A step of the model that another one stands around, with the same optimizer."""
    planned = dataclasses.replace(step, model=inner, optimizer="none")
    planned.update_rule = step.update_rule
    return planned


def _stream(workload: Any, count: int, step: TrainingStep) -> Tensor:
    """What a stage takes from the one before, of so many examples: ``[count, seq, dim]``."""
    parameter = next(step.model.parameters())
    shape = (count, workload.seq, workload.dim)
    return torch.zeros(shape, dtype=parameter.dtype, device=step.device, requires_grad=True)
