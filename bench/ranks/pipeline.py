"""The step of one rank; of a rank that is a stage of a pipeline, by torch's own schedules."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn.parallel import DistributedDataParallel

from bench.cells.cell import Cell
from bench.cells.training import TrainingStep
from bench.ranks.parallel import Parallel
from bench.workloads.base import Batch, Workload
from strategies.profiling.rates import Rates
from strategies.profiling.step import ExampleStep, Step


@dataclasses.dataclass
class PipelinedStep(TrainingStep):
    """A stage's step: forward and backward of its micro-batches are interleaved.

    Attributes:
        schedule: that runs them.
        stage: what it runs.
        parts: micro-batches of a step.
    """

    schedule: Any = None
    stage: Any = None
    parts: int = 1

    def forward(self) -> Tensor:
        """The whole step, backward too: the mean loss, NaN on a stage that has none."""
        losses: list[Tensor] = []
        inputs, targets = self.batch
        with self.autocast():
            self.schedule.step(
                *([inputs] if self.stage.is_first else []),
                target=targets if self.stage.is_last else None,
                losses=losses,
                return_outputs=False,
            )
        return torch.stack(losses).mean().detach() if losses else torch.tensor(float("nan"))

    def backward(self, loss: Tensor) -> None:
        """It was a part of `forward`."""

    def micro_batch(self) -> Tensor:
        """What the stage is called with: a part of the batch, or what the one before hands on."""
        part: Tensor = self.batch[0].chunk(self.parts)[0]
        if self.stage.is_first:
            return part
        return self.stream()

    def stream(self) -> Tensor:
        """What one stage hands to the next: ``[examples of a micro-batch, seq, dim]``."""
        parameter, workload = next(self.model.parameters()), self.workload
        count = len(self.batch[0]) // self.parts
        shape = (count, workload.seq, workload.dim)  # type: ignore[attr-defined]
        return torch.zeros(shape, dtype=parameter.dtype, device=self.device, requires_grad=True)

    def buffers(self) -> list[Tensor]:
        """What it takes activations and gradients of its neighbours in: one for each micro-batch.

        They are there from the first step on.
        """
        known = [*self.stage.args_recv_info.values(), *self.stage.grad_recv_info.values()]
        found = (info.buffer for infos in known for info in infos)
        return [buffer for buffer in found if buffer is not None]


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
    workload: Workload,
    model: nn.Module,
    batch: Batch,
    *,
    device: torch.device,
    parallel: Parallel,
    mesh: DeviceMesh,
) -> TrainingStep:
    """A rank's step.

    Args:
        cell: names precision and optimizer.
        workload: that ranks share.
        model: the rank's part of it.
        batch: its part of the batch.
        device: its own.
        parallel: how ranks share the step.
        mesh: of the ranks.
    """
    given = (workload, model, batch, device, cell.precision, cell.optimizer)
    if parallel.pipeline == 1:
        return TrainingStep(*given)
    group, stage = mesh["pp"].get_group(), mesh["pp"].get_local_rank()
    part = PipelineStage(model, stage, parallel.pipeline, device, group=group)
    return pipelined(PipelinedStep(*given, parts=parallel.parts), part, parallel)


def pipelined(step: PipelinedStep, part: PipelineStage, parallel: Parallel) -> PipelinedStep:
    """The step, run by torch's schedule of a stage."""
    kind = ScheduleGPipe if parallel.gpipe else Schedule1F1B
    step.schedule = kind(part, parallel.parts, loss_fn=_loss_of(step.workload))
    step.stage = part
    return step


def _loss_of(workload: Workload) -> Any:
    """The workload's loss of an output, as a schedule calls it."""

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        return workload.loss(_Known(output), (targets, targets))

    return loss


@dataclasses.dataclass
class _PartStep(ExampleStep):
    """One micro-batch of a stage.

    Attributes:
        rates: of a device that is only simulated.
    """

    rates: Rates | None = None


def profiled_step(step: TrainingStep) -> Step:
    """What a strategy profiles blocks on: the rank's step, without what others must join in.

    A profile runs parts of a step, which ranks that wait for each other cannot share; so it is of
    the model inside DistributedDataParallel, and of one micro-batch of a pipeline's stage.
    """
    model = step.model
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    if isinstance(step, PipelinedStep):
        example = step.micro_batch()
        rule = step.update_rule
        return _PartStep(inner, example, optimizer=rule, keep_output=False, rates=step.rates)
    if inner is model:
        return step
    planned = dataclasses.replace(step, model=inner, optimizer="none")
    planned.update_rule = step.update_rule
    return planned
