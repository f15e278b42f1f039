"""What a cell runs, and why it cannot."""

from __future__ import annotations

import torch
from torch import nn

import strategies
from bench.cells.cell import Cell
from bench.cells.training import TrainingStep


def refuse(cell: Cell, strategy: strategies.Strategy) -> None:
    """What cannot run needs no reference. The model that the strategy sees here is not used again.

    Raises:
        strategies.Unsupported: it says that it cannot.
    """
    model, device = build(cell).model, torch.device(cell.device)
    reason = strategy.unsupported(model, device) or _incomparable(cell, strategy, model)
    if reason:
        raise strategies.Unsupported(f"{strategy.spec()}: {reason}")


def _incomparable(cell: Cell, strategy: strategies.Strategy, model: nn.Module) -> str | None:
    """Another kernel of attention drops other elements, and nothing says that it is right."""
    dropout = getattr(cell.make_workload(), "dropout", 0.0)
    if not dropout or strategy.attention_kernel(model) is None:
        return None
    return (
        f"under another kernel of attention the dropout of {dropout:g} drops other elements, and"
        " no gradient can be compared; set the workload's dropout=0"
    )


def build(cell: Cell, **options: str) -> TrainingStep:
    """The step of a cell on its device, its workload changed by ``options``."""
    workload = cell.make_workload().with_options(**options)
    device = torch.device(cell.device)
    return TrainingStep.build(workload, device, cell.precision, cell.optimizer)
