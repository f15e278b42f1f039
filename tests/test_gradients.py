"""Two outcomes of one step are compared to the bit, and what differs is named."""

import dataclasses
import math

import pytest
import tiny
import torch

from bench.measure import gradients
from bench.measure.gradients import Outcome, compare


def outcome(loss=1.0, buffers=None, state=0, **grads):
    return Outcome(
        loss=torch.tensor(loss),
        gradients={n: None if g is None else torch.tensor(g) for n, g in grads.items()},
        buffers={n: torch.tensor(b) for n, b in (buffers or {}).items()},
        random_state=(torch.tensor([state]),),
    )


BASE = {"a": [3.0, 4.0], "b": [0.0, 5.0], "frozen": None}


def changed(**grads):
    return compare(outcome(**BASE), outcome(**{**BASE, **grads}))


# Comparing.


def test_the_same_is_equal():
    result = changed()
    assert result == gradients.Comparison(
        bitwise_equal=True,
        max_rel_err=0.0,
        min_cosine=1.0,
        missing=[],
        not_finite=[],
        loss_equal=True,
        buffers_equal=True,
        buffers_close=True,
        random_state_equal=True,
    )
    assert result.problem(exact=True) is None


def test_relative_error_is_of_norms():
    # |(3, 4) − (3, 4.5)| / |(3, 4)| = 0.5 / 5
    result = changed(a=[3.0, 4.5])
    assert result.max_rel_err == pytest.approx(0.1)
    assert not result.bitwise_equal
    # The angle between (3, 4) and (3, 4.5).
    assert result.min_cosine == pytest.approx((9 + 18) / (5 * math.hypot(3, 4.5)))


def test_the_largest_error_and_the_smallest_cosine_count():
    result = changed(a=[3.0, 4.5], b=[5.0, 0.0])
    assert result.max_rel_err == pytest.approx(math.sqrt(2))
    assert result.min_cosine == pytest.approx(0.0)


def test_an_opposite_gradient_has_cosine_minus_one():
    assert changed(a=[-3.0, -4.0]).min_cosine == pytest.approx(-1.0)


def test_a_gradient_of_rounding_errors_has_no_relative_error_worth_the_name():
    """It is divided by a thousandth of the largest norm, not by its own."""
    one = outcome(large=[1000.0], small=[1e-9])
    two = outcome(large=[1000.0], small=[3e-9])
    result = compare(one, two)
    assert result.max_rel_err == pytest.approx(2e-9)
    assert result.min_cosine == pytest.approx(1.0)
    assert not result.bitwise_equal


def test_one_unit_in_the_last_place_is_seen():
    nearly = math.nextafter(4.0, 5.0)
    assert torch.tensor(nearly) == torch.tensor(4.0)  # as floats of 32 bits they are the same
    assert changed(a=[3.0, nearly]).bitwise_equal
    assert not changed(a=[3.0, 4.0 + 2**-21]).bitwise_equal


def test_minus_zero_is_not_zero():
    assert not changed(b=[-0.0, 5.0]).bitwise_equal


def test_the_same_nan_is_equal():
    """A step that overflows without a strategy may overflow with it."""
    both = {"a": [math.nan], "b": [math.inf], "c": [2.0]}
    result = compare(outcome(**both), outcome(**both))
    assert result.bitwise_equal
    assert result.problem(exact=True) is None


def test_other_parameters_are_judged_beside_an_overflow():
    one = outcome(a=[math.inf], b=[2.0])
    two = outcome(a=[math.inf], b=[3.0])
    assert compare(one, two).max_rel_err == pytest.approx(0.5)


def test_missing_gradients_are_named():
    result = changed(a=None)
    assert result.missing == ["a"]
    assert not result.bitwise_equal
    assert result.problem(exact=False) == "no gradient for a"


def test_a_parameter_without_gradient_is_not_missing():
    assert changed().missing == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_named(bad):
    result = changed(b=[bad, 5.0])
    assert result.not_finite == ["b"]
    assert result.problem(exact=False) == "the gradient is not finite for b"
    assert math.isfinite(result.max_rel_err)


def test_another_type_is_not_equal():
    one = outcome(**BASE)
    two = dataclasses.replace(one, loss=one.loss.double())
    assert not compare(one, two).loss_equal


# Judging.


def problem(exact=True, **fields):
    grads = {name: fields.pop(name) for name in tuple(fields) if name in BASE}
    return compare(
        outcome(**BASE, buffers={"mean": 0.0}),
        outcome(**{"buffers": {"mean": 0.0}, **BASE, **grads, **fields}),
    ).problem(exact=exact)


@pytest.mark.parametrize(
    ("different", "exact", "lossy"),
    [
        ({"loss": 2.0}, "the loss differs", None),
        ({"a": [3.0, 4.5]}, "the gradient differs: relative error up to 0.1", None),
        ({"state": 1}, "the random state differs after the step", ...),
        ({"buffers": {"mean": 1.0}}, "buffers (running statistics) differ after the step", ...),
        ({"a": None, "b": None}, "no gradient for a, b", ...),
        ({"a": None, "loss": 2.0}, "no gradient for a", ...),
    ],
)
def test_a_lossy_strategy_may_change_values_and_nothing_else(different, exact, lossy):
    assert problem(exact=True, **different) == exact
    assert problem(exact=False, **different) == (exact if lossy is ... else lossy)


# Running.


def test_a_run_leaves_the_model_as_it_was():
    step = tiny.step("resnet-mini")
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    result = gradients.run(step, seed=0)
    after = step.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None for p in step.model.parameters())
    assert result.gradients.keys() == dict(step.model.named_parameters()).keys()
    # The outcome holds the statistics as the step left them.
    assert not torch.equal(result.buffers["bn1.running_mean"], before["bn1.running_mean"])
    assert result.buffers["bn1.num_batches_tracked"] == 1


def test_a_run_is_decided_by_its_seed():
    step = tiny.step("gpt-mini-dropout", layers=2)
    one, two, other = (gradients.run(step, seed) for seed in (0, 0, 1))
    assert compare(one, two).bitwise_equal
    assert compare(one, two).random_state_equal
    assert not compare(one, other).loss_equal


def test_a_run_does_not_update_the_parameters():
    step = tiny.step("mlp-chain")
    step.optimizer = "sgd"
    step.__post_init__()
    before = step.model.stem.weight.clone()
    gradients.run(step, seed=0)
    assert torch.equal(step.model.stem.weight, before)


def test_gradients_do_not_depend_on_what_ran_before():
    step = tiny.step("mlp-chain")
    first = gradients.run(step, seed=0)
    step()  # leaves gradients behind
    assert compare(first, gradients.run(step, seed=0)).bitwise_equal
