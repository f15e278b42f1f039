"""One step under a strategy, compared with the same step of the model as it is."""

from __future__ import annotations

import dataclasses
import math

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

    def difference(self, other: Outcome, most: float = 0.0) -> str | None:
        """What another step gives instead, in words; ``None``: the same, or as it may be.

        Args:
            other: the other step's.
            most: that a tensor may be apart, of its norm; infinite: it is to be finite, no more.
        """
        if not _may_be(self.loss, other.loss, most):
            return f"the loss is {other.loss.item()!r} instead of {self.loss.item()!r}"
        for name, gradient in self.gradients.items():
            if not _may_be(gradient, other.gradients[name], most):
                return f"the gradient of {name} is another"
        return None

    def apart(self, other: Outcome) -> float:
        """The most that a tensor differs from another step's, of its norm."""
        names = [name for name, gradient in self.gradients.items() if gradient is not None]
        pairs = [(self.gradients[name], other.gradients[name]) for name in names]
        pairs.append((self.loss, other.loss))
        return max(_apart(one, two) for one, two in pairs if one is not None and two is not None)


def _may_be(one: Tensor | None, other: Tensor | None, most: float) -> bool:
    """Whether the second may stand for the first."""
    if one is None or other is None:
        return one is other
    if not most:
        return torch.equal(one, other)
    return bool(other.isfinite().all()) and (math.isinf(most) or _apart(one, other) <= most)


def _apart(one: Tensor, other: Tensor) -> float:
    if torch.equal(one, other):
        return 0.0
    wide = torch.promote_types(one.dtype, torch.double)  # of complex numbers, both parts
    norm, difference = (t.to(wide).norm().item() for t in (one, other - one))
    return difference / norm if norm else math.inf


@dataclasses.dataclass(frozen=True)
class Reference:
    """A step of the model as it is, and how near to it a strategy's must be.

    Attributes:
        outcome: of the step.
        most: see `Outcome.difference`: 0, where the model gives the same bits twice. Kernels that
            add up in the order in which threads arrive, as some of cuDNN's, do not: then
            `_MULTIPLE` times as far as two steps of the model itself are apart, but no more than
            half of the digits.
    """

    outcome: Outcome
    most: float


_MULTIPLE = 8.0


def verify(reference: Reference, step: Step, strategy: Strategy) -> None:
    """Compare a step of a model that is under a strategy now.

    Raises:
        Unsupported: it gives something else.
    """
    exact = strategy.exact and not strategy.compiled
    problem = reference.outcome.difference(Outcome.of(step), reference.most if exact else math.inf)
    if problem:
        raise Unsupported(
            f"{strategy.spec()}: on the example {problem}; please report this model, and use none"
        )


def reference_of(model: nn.Module, step: Step | None) -> Reference:
    """The model as it is.

    Raises:
        ValueError: there is nothing to run.
    """
    if step is None:
        raise ValueError(f"to check {type(model).__name__}, apply needs example=...")
    outcome = Outcome.of(step)
    dtypes = {outcome.loss.dtype, *(parameter.dtype for parameter in model.parameters())}
    rounded = (dtype for dtype in dtypes if dtype.is_floating_point or dtype.is_complex)
    rounding = max(torch.finfo(dtype).eps for dtype in rounded)
    return Reference(outcome, min(_MULTIPLE * outcome.apart(Outcome.of(step)), rounding**0.5))
