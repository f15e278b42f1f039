"""What one step of a rank does: its gradients, and what it says to the others."""

from __future__ import annotations

import dataclasses
from collections import Counter

from torch import Tensor
from torch.distributed.tensor import DTensor

from bench.cells.training import TrainingStep
from bench.measure import generators
from bench.measure.digests import Digests, digests
from bench.ranks.communication import Communication


def local(tensor: Tensor) -> Tensor:
    """A rank's own part of a tensor that several hold."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@dataclasses.dataclass(frozen=True)
class Observation:
    """What one step of this rank did.

    Attributes:
        loss: of this rank's examples.
        gradients: digests of this rank's parts.
        parameters: digests of this rank's parts, after the step.
        buffers: digests after the step.
        random_state: of the generators after the step.
        calls: collectives by kind.
        message_bytes: by kind.
    """

    loss: float
    gradients: Digests
    parameters: Digests
    buffers: Digests
    random_state: tuple[Tensor, ...]
    calls: Counter[str]
    message_bytes: Counter[str]


def observe(step: TrainingStep, seed: int) -> Observation:
    """One step without the optimizer's update; the gradients stay."""
    generators.seed_all(seed)
    step.drop_gradients()
    with Communication() as talk:
        loss = step.forward()
        step.backward(loss)
    named = dict(step.model.named_parameters())
    return Observation(
        loss=loss.item(),
        gradients=digests(
            (name, None if p.grad is None else local(p.grad)) for name, p in named.items()
        ),
        parameters=digests((name, local(p)) for name, p in named.items()),
        buffers=digests(step.model.named_buffers()),
        random_state=generators.states(step.device),
        calls=talk.calls,
        message_bytes=talk.message_bytes,
    )
