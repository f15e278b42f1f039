"""One step under a tracer.

Categories are decided when the step is over, because only then is it known what a storage was for.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bench.measure.garbage import uncollected
from bench.simulate.trace import BACKWARD, FORWARD, OPTIMIZER, RECOMPUTE, STANDING, TAIL, Trace
from bench.simulate.tracer import Tracer


@dataclasses.dataclass(frozen=True)
class Parts:
    """A step's parts, as callables, and the tensors that outlive it.

    Attributes:
        forward: returns the loss.
        backward: accumulates gradients.
        update: the optimizer's step.
        resident: tensors that are there before, by category.
        standing: memory that the step before has left in attributes.
        parameters: whose gradients are to be found afterwards.
        semantics: entered around the tracer, which sees what kernels return, not how they are
            replaced; see `bench.simulate.semantics`.
    """

    forward: Callable[[], Tensor]
    backward: Callable[[Tensor], None]
    update: Callable[[], None]
    resident: dict[str, list[Tensor]]
    standing: Callable[[], Sequence[torch.UntypedStorage]]
    parameters: Sequence[nn.Parameter]
    semantics: contextlib.AbstractContextManager[object] = dataclasses.field(
        default_factory=contextlib.nullcontext
    )


def trace(tracer: Tracer, parts: Parts) -> Trace:
    """Run one step under ``tracer``. No gradients exist before."""
    for category, tensors in parts.resident.items():
        tracer.adopt_as(category, tensors)
    tracer.adopt_memory_as(STANDING, parts.standing())
    resident_events = len(tracer.events)
    with uncollected(), parts.semantics, tracer, tracer.watching():
        loss = parts.forward()
        forward_events, forward_flops = len(tracer.events), tracer.flops
        tracer.forward_done = True
        parts.backward(loss)
        del loss
        step_flops = tracer.flops
        tracer.path.clear()
        tracer.updating = True
        parts.update()
    _categorise(tracer, parts)
    tracer.current.clear()
    return Trace(
        lives=tracer.lives,
        events=tracer.events,
        work=tracer.work,
        transfers=tracer.transfers,
        resident_events=resident_events,
        forward_events=forward_events,
        forward_flops=forward_flops,
        step_flops=step_flops,
        recompute_flops=tracer.recompute_flops,
    )


def _categorise(tracer: Tracer, parts: Parts) -> None:
    keys = {_storage_of(p.grad) for p in parts.parameters if p.grad is not None}
    gradients = {tracer.current[key] for key in keys}
    for index, life in enumerate(tracer.lives):
        if life.category in (*parts.resident, STANDING):
            continue
        if index in gradients:
            life.category = "gradients"
        elif index in tracer.marked:
            life.category = tracer.marked[index]
        elif life.phase == OPTIMIZER and life.died is None:
            life.category = "optimizer state"
        elif life.phase == RECOMPUTE:
            life.category = "recomputed activations"
        elif index in tracer.boundaries:
            life.category = "boundary activations"
        elif life.phase == FORWARD:
            life.category = _of_forward(tracer, index)
        elif (life.phase, life.module) == (BACKWARD, TAIL):
            life.category = "logits and loss"  # their gradients


def _storage_of(tensor: Tensor) -> int:
    return int(held(tensor).untyped_storage()._cdata)


def held(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: of a sharded one, its own part."""
    local = getattr(tensor, "to_local", None)
    with torch.no_grad():
        return tensor if local is None else local()


def _of_forward(tracer: Tracer, index: int) -> str:
    life = tracer.lives[index]
    if tracer.tail_begins is not None and life.born >= tracer.tail_begins:
        return "logits and loss"
    kept = life.died is None or tracer.events[life.died].phase != FORWARD
    return "saved tensors" if kept else "temporaries"
