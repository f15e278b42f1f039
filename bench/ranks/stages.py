"""Cuts a stage of a pipeline out of a model: some of its blocks, and what is before or after."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from bench.ranks.tensor_plans import family_of
from bench.workloads.base import Workload


def cut(model: nn.Module, workload: Workload, stage: int, stages: int) -> int:
    """Leave of ``model`` what one stage has, in place; parameters keep their objects.

    Args:
        model: of the workload, whole.
        workload: of a family whose ends are known.
        stage: which, from 0.
        stages: how many; they divide the blocks.

    Returns:
        The number of the stage's first block in the whole model.
    """
    family = family_of(workload)
    assert family is not None, "checked"
    blocks = list(model.get_submodule(workload.blocks).children())
    count = len(blocks) // stages
    setattr(model, workload.blocks, nn.ModuleList(blocks[stage * count : (stage + 1) * count]))
    first, last = stage == 0, stage == stages - 1
    gone = (*(() if first else family.before), *(() if last else family.after))
    for name in gone:
        setattr(model, name, None)
    model.forward = functools.partial(_forward, model, workload, first=first, last=last)
    return stage * count


def _forward(model: Any, workload: Any, x: Tensor, *, first: bool, last: bool) -> Tensor:
    """A stage's part of the model's own forward."""
    x = model.enter(x) if first else x
    more = {"rope": model.rope(workload.seq, x)} if hasattr(model, "rope") else {}
    for block in model.get_submodule(workload.blocks).children():
        x = block(x, **more)
    return model.leave(x) if last else x
