"""One step under a strategy, compared with the same step of the model as it is."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from strategies.contract.strategy import Strategy
from strategies.execution.errors import Unsupported
from strategies.profiling.step import Step, preserved


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one step gives: the loss, and the gradients by the parameters' names."""

    loss: Tensor
    gradients: dict[str, Tensor | None]

    @classmethod
    def of(cls, step: Step) -> Outcome:
        """Run one; gradients, buffers and random states are afterwards what they were."""
        with preserved(step.model):
            step.drop_gradients()
            loss = step.forward()
            step.backward(loss)
            return cls(loss.detach(), {n: p.grad for n, p in step.model.named_parameters()})

    def difference(self, other: Outcome, *, exact: bool) -> str | None:
        """What another step gives instead, in words; ``None``: the same, or as it may be."""
        if exact and not torch.equal(self.loss, other.loss):
            return f"the loss is {other.loss.item()!r} instead of {self.loss.item()!r}"
        for name, gradient in self.gradients.items():
            if not _may_be(gradient, other.gradients[name], exact=exact):
                return f"the gradient of {name} is another"
        return None


def _may_be(one: Tensor | None, other: Tensor | None, *, exact: bool) -> bool:
    """Whether the second may stand for the first: equal, or of an inexact strategy, finite."""
    if one is None or other is None:
        return one is other
    return torch.equal(one, other) if exact else bool(other.isfinite().all())


def verify(reference: Outcome, step: Step, strategy: Strategy) -> None:
    """Compare a step of a model that is under a strategy now.

    Raises:
        Unsupported: it gives something else.
    """
    problem = reference.difference(Outcome.of(step), exact=strategy.exact and not strategy.compiled)
    if problem:
        raise Unsupported(
            f"{strategy.spec()}: on the example {problem}; please report this model, and use none"
        )


def outcome(model: nn.Module, step: Step | None) -> Outcome:
    """Of the model as it is.

    Raises:
        ValueError: there is nothing to run.
    """
    if step is None:
        raise ValueError(f"to check {type(model).__name__}, apply needs example=...")
    return Outcome.of(step)
