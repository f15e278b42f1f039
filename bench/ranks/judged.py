"""Whether the gradient of all ranks together is that of one process."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from bench.cells.cell import Cell
from bench.cells.training import TrainingStep
from bench.measure import gradients, rounding
from bench.measure.gradients import Outcome
from bench.measure.rounding import Judge
from strategies.contract.floor import Floor


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the gathered gradient is, against one process that has no strategy.

    Attributes:
        problem: in a sentence, or ``None``.
        reference_loss: of the whole batch.
        max_rel_err: see `bench.measure.gradients.Comparison`.
        min_cosine: as there.
        missing: parameters without a gradient.
        fp64_rel_err: largest distance of a parameter's gradient from fp64.
        reference_fp64_rel_err: the same of one process.
    """

    problem: str | None
    reference_loss: float
    max_rel_err: float
    min_cosine: float
    missing: list[str]
    fp64_rel_err: float | None
    reference_fp64_rel_err: float | None


class Whole:
    """The step of the whole batch in one process, and the same in fp64.

    Args:
        cell: whose workload, precision and seed it has.
        device: of this process.
    """

    def __init__(self, cell: Cell, device: torch.device) -> None:
        step = TrainingStep.build(cell.make_workload(), device, cell.precision)
        self.device = device
        self.first = gradients.run(step, cell.seed)
        self.precise = rounding.precise(step, cell.seed)
        self.unit = rounding.unit(cell.precision)

    def verdict(self, found: Mapping[str, Tensor | None], floor: Floor | None) -> Verdict:
        """Judge the gathered gradients; orders of summation may differ, rounding explains it.

        Args:
            found: by the parameters' names in the whole model.
            floor: that the strategy declares, if it approximates.
        """
        found = {n: None if g is None else g.to(self.device) for n, g in found.items()}
        right = self.precise.gradients
        own = rounding.distance(right, self.first.gradients)
        apart = rounding.distance(right, found)
        first = self.first
        same = Outcome(first.loss, found, first.buffers, first.random_state)
        comparison = gradients.compare(first, same)
        problem = comparison.problem(exact=False)
        return Verdict(
            problem=problem or Judge(right, own, self.unit, floor).problem(found),
            reference_loss=first.loss.item(),
            max_rel_err=comparison.max_rel_err,
            min_cosine=comparison.min_cosine,
            missing=comparison.missing,
            fp64_rel_err=max(apart.errors.values(), default=None),
            reference_fp64_rel_err=max(own.errors.values(), default=None),
        )


def told(verdict: Verdict | None) -> Verdict:
    """Rank 0's verdict, on every rank."""
    box = [None if verdict is None else msgspec.to_builtins(verdict)]
    dist.broadcast_object_list(box, src=0)
    return msgspec.convert(box[0], Verdict)


def collected(own: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """Gradients of all ranks by name, on rank 0; elsewhere those that are there already.

    Args:
        own: gathered over the ranks that share them; stages of a pipeline have different ones.
    """
    rank = dist.get_rank()
    boxes: list[dict[str, Tensor | None]] = [{} for _ in range(dist.get_world_size())]
    # On the host: a tensor of another rank's device would come back to that device.
    here = {name: None if value is None else value.cpu() for name, value in own.items()}
    dist.gather_object(here, boxes if rank == 0 else None, dst=0)
    return {name: value for box in boxes for name, value in box.items()} if rank == 0 else here
