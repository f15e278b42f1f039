"""Is the gradient still right? One strategy's step against the reference's, from the same seed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from bench.cells.training import TrainingStep
from bench.measure import generators

FLOOR = 1e-3
# Running statistics that a compiler rounds in another order differ by 1e-6; updated twice, or not
# at all, by a tenth.
ROUNDING = 1e-4


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a step leaves behind.

    Attributes:
        loss: the scalar.
        gradients: by parameter name; ``None`` where there is none.
        buffers: by name, after the step.
        random_state: the generators' states after the step.
    """

    loss: Tensor
    gradients: Mapping[str, Tensor | None]
    buffers: Mapping[str, Tensor]
    random_state: tuple[Tensor, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An outcome against the reference's.

    Attributes:
        bitwise_equal: loss and every gradient, to the bit.
        max_rel_err: largest ‖g − g₀‖ / ‖g₀‖ over parameters; the denominator is at least 10⁻³ of
            the largest gradient's norm, for a gradient that is zero but for rounding has no
            relative error worth the name.
        min_cosine: smallest cosine between g and g₀ over parameters above that floor.
        missing: parameters with a gradient in the reference only.
        not_finite: parameters whose gradient is infinite or NaN where the reference's is not.
        loss_equal: to the bit.
        buffers_equal: to the bit.
        buffers_close: but for rounding.
        random_state_equal: to the bit.
    """

    bitwise_equal: bool
    max_rel_err: float
    min_cosine: float
    missing: list[str]
    not_finite: list[str]
    loss_equal: bool
    buffers_equal: bool
    buffers_close: bool
    random_state_equal: bool

    def problem(self, *, exact: bool, rounded: bool = False) -> str | None:
        """What breaks the promise, in a sentence, or ``None``.

        Args:
            exact: loss and gradients are promised to the bit.
            rounded: buffers are promised but for rounding.
        """
        buffers_kept = self.buffers_close if rounded else self.buffers_equal
        names = ", ".join(self.missing or self.not_finite)
        checks = {
            f"no gradient for {names}": bool(self.missing),
            f"the gradient is not finite for {names}": bool(self.not_finite),
            "buffers (running statistics) differ after the step": not buffers_kept,
            "the random state differs after the step": not self.random_state_equal,
            "the loss differs": exact and not self.loss_equal,
            f"the gradient differs: relative error up to {self.max_rel_err:.3g}": exact
            and not self.bitwise_equal,
        }
        return next((sentence for sentence, broken in checks.items() if broken), None)


def run(step: TrainingStep, seed: int) -> Outcome:
    """One step without the optimizer, from ``seed``; restores the buffers that it changed."""
    before = copies(step.model.named_buffers())
    generators.seed_all(seed)
    step.drop_gradients()
    loss = step.forward()
    step.backward(loss)
    outcome = outcome_of(step, loss)
    step.drop_gradients()  # the outcome keeps the tensors; the parameters let go of them
    restore(step.model.named_buffers(), before)
    return outcome


def outcome_of(step: TrainingStep, loss: Tensor) -> Outcome:
    """What a step that just ended left behind; the gradients are the parameters' own."""
    return Outcome(
        loss=loss.detach().clone(),
        gradients={n: p.grad for n, p in step.model.named_parameters()},
        buffers=copies(step.model.named_buffers()),
        random_state=generators.states(step.device),
    )


def copies(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Copies by name."""
    return {name: value.detach().clone() for name, value in named}


def restore(named: Iterable[tuple[str, Tensor]], before: Mapping[str, Tensor]) -> None:
    """Write copies back, in place."""
    with torch.no_grad():
        for name, value in named:
            value.copy_(before[name])


def compare(reference: Outcome, outcome: Outcome, most: float = ROUNDING) -> Comparison:
    """Compare two outcomes of the same model, batch and seed.

    Args:
        reference: the one.
        outcome: the other.
        most: that buffers may differ by, where they are promised but for rounding.
    """
    pairs = {
        name: (g0, outcome.gradients[name])
        for name, g0 in reference.gradients.items()
        if g0 is not None
    }
    missing = [name for name, (_, g) in pairs.items() if g is None]
    both = {name: (g0, g) for name, (g0, g) in pairs.items() if g is not None}
    sound = {n: pair for n, pair in both.items() if pair[0].isfinite().all()}
    finite = {n: pair for n, pair in sound.items() if pair[1].isfinite().all()}
    rel_err, cosine = _errors(finite)
    loss_equal = same_bits(reference.loss, outcome.loss)
    return Comparison(
        bitwise_equal=loss_equal
        and not missing
        and all(same_bits(g0, g) for g0, g in both.values()),
        max_rel_err=rel_err,
        min_cosine=cosine,
        missing=missing,
        not_finite=[name for name in sound if name not in finite],
        loss_equal=loss_equal,
        buffers_equal=all_kept(reference.buffers, outcome.buffers, same_bits),
        buffers_close=all_kept(
            reference.buffers, outcome.buffers, functools.partial(close, most=most)
        ),
        random_state_equal=same_states(reference.random_state, outcome.random_state),
    )


def all_kept(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    same: Callable[[Tensor, Tensor], bool],
) -> bool:
    """Whether the same names stand for the same values."""
    return before.keys() == after.keys() and all(same(b, after[n]) for n, b in before.items())


def same_states(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    """Whether all generators are where they were."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal to the bit: a NaN is itself, and −0 is not 0."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))


def close(one: Tensor, other: Tensor, most: float = ROUNDING) -> bool:
    """Equal but for ``most`` of the norm; whole numbers, such as counts of batches, to the bit."""
    if not one.is_floating_point():
        return same_bits(one, other)
    difference = (one.double() - other.double()).norm().item()
    return bool(difference <= most * one.double().norm().item())


def _errors(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[float, float]:
    norms = {name: g0.double().norm().item() for name, (g0, _) in pairs.items()}
    floor = FLOOR * max(norms.values(), default=0.0)
    rel_err, cosine = 0.0, 1.0
    for name, (g0, g) in pairs.items():
        difference = (g.double() - g0.double()).norm().item()
        if difference:
            rel_err = max(rel_err, difference / max(norms[name], floor))
        if norms[name] > floor:
            flat0, flat = g0.double().flatten(), g.double().flatten()
            cosine = min(cosine, torch.cosine_similarity(flat0, flat, dim=0).item())
    return rel_err, cosine
