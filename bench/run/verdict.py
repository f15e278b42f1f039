"""What the gradient gate says of a cell, as parts of its record."""

from __future__ import annotations

from bench.measure.gate import Gate
from bench.measure.rounding import Distance
from bench.store.parts import Ending, GradientCheck


def verdict(gate: Gate) -> tuple[Ending, GradientCheck]:
    """After all passes."""
    result, apart = gate.comparison, gate.apart
    assert result is not None
    check = GradientCheck(
        loss=gate.first_loss,
        reference_loss=gate.seen.first.loss.item(),
        grads_bitwise_equal=result.bitwise_equal,
        grad_max_rel_err=result.max_rel_err,
        grad_min_cosine=result.min_cosine,
        grads_missing=result.missing,
        buffers_equal=result.buffers_equal,
        rng_restored=result.random_state_equal,
        parameters_equal=gate.parameters_equal,
        checked_steps=gate.checked_steps,
        grad_fp64_rel_err=_largest(apart),
        reference_fp64_rel_err=_largest(gate.own),
        grad_whole_rel_err=None if apart is None else apart.error,
        grad_whole_cosine=None if apart is None else apart.cosine,
    )
    return Ending(status="mismatch" if gate.problem else "ok", reason=gate.problem), check


def _largest(distance: Distance | None) -> float | None:
    return None if distance is None else max(distance.errors.values(), default=None)
