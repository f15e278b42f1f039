"""What is not promised to the bit is held against fp64, or against the floor that is declared."""

import copy
import dataclasses
import math

import pytest
import tiny
import torch
from torch.nn import functional as F

import strategies
from bench.cells.training import TrainingStep
from bench.measure import gradients, masks, rounding
from bench.measure.rounding import MULTIPLE, Judge, distance
from strategies.contract.floor import LEAST_COSINE, Floor
from strategies.storage import CODECS

RIGHT = {"a": torch.tensor([3.0, 4.0]).double(), "b": torch.tensor([0.0, 5.0]).double()}
OWN = {"a": torch.tensor([3.0, 4.0005]), "b": torch.tensor([0.0, 5.0])}  # 1e-4 of a, all of b


def judge(floor=None, own=OWN):
    return Judge(RIGHT, distance(RIGHT, own), rounding.unit("fp32"), floor)


def found(a=(3.0, 4.0), b=(0.0, 5.0)):
    return {"a": torch.tensor(a), "b": torch.tensor(b)}


# Distances.


def test_distances_are_of_norms():
    apart = distance(RIGHT, found(a=(3.0, 4.5)))
    assert apart.errors == {"a": pytest.approx(0.1), "b": 0.0}
    assert apart.error == pytest.approx(0.5 / math.sqrt(50))
    assert apart.norm == pytest.approx(math.sqrt(9 + 20.25 + 25))
    assert apart.cosine == pytest.approx((9 + 18 + 25) / (math.sqrt(50) * apart.norm))


def test_a_missing_gradient_is_zero():
    apart = distance(RIGHT, {"a": None, "b": RIGHT["b"]})
    assert (apart.errors["a"], apart.cosines["a"]) == (1.0, 0.0)


def test_a_gradient_of_rounding_errors_has_no_relative_error_worth_the_name():
    right = {"large": torch.tensor([1000.0]), "small": torch.tensor([1e-9])}
    apart = distance(right, {"large": right["large"], "small": torch.tensor([3e-9])})
    assert apart.errors["small"] == pytest.approx(2e-9)
    assert "small" not in apart.cosines


# Rounding.


@pytest.mark.parametrize(
    ("times", "wrong"),
    [(0.5, False), (0.98 * MULTIPLE, False), (1.02 * MULTIPLE, True), (-1.02 * MULTIPLE, True)],
)
def test_rounding_is_so_many_times_that_of_the_plain_model(times, wrong):
    problem = judge().problem(found(a=(3.0, 4.0 + times * 5e-4)))
    assert (problem is not None) is wrong
    if wrong:
        assert problem.startswith("the gradient of a is 0.000816 (relative) from fp64, without the")


def test_where_the_plain_model_is_lucky_its_median_counts():
    """Of two tensors, the one is right to the bit and the other not: half the sum is the median."""
    median = 1e-4 / 2
    assert judge().problem(found(b=(0.0, 5 * (1 + 0.98 * MULTIPLE * median)))) is None
    assert "gradient of b" in judge().problem(found(b=(0.0, 5 * (1 + 1.02 * MULTIPLE * median))))


def test_where_everything_is_exact_a_unit_counts():
    held = judge(own=RIGHT)
    assert held.problem(found(a=(3.0, 4.0 + 2**-22))) is None
    assert held.problem(found(a=(3.0, 4.0 + 2**-18))) is not None


def test_later_steps_may_have_moved_as_far_as_the_plain_model_has():
    drift = distance(RIGHT, found(a=(3.0, 4.05)))
    assert judge().problem(found(a=(3.0, 4.05))) is not None
    assert judge().problem(found(a=(3.0, 4.05)), drift) is None
    assert judge().problem(found(a=(-3.0, -4.0)), drift) is not None


# Floors.


def test_a_floor_is_of_the_whole_gradient():
    held = judge(Floor(max_rel_err=0.1, min_cosine=0.99))
    assert held.problem(found(a=(3.0, 4.5))) is None  # 0.5 of 7.07
    assert held.problem(found(a=(3.0, 4.8))).startswith(
        "the relative error of the gradient is 0.11"
    )
    assert held.problem(found(a=(-3.0, -4.0))).startswith("the cosine of the gradient is 0, below")


def test_no_tensor_of_an_accurate_strategy_points_uphill():
    right = {"a": torch.tensor([100.0]), "b": torch.tensor([1.0])}
    held = Judge(right, distance(right, right), 0.0, Floor(0.1, 0.9))
    turned = {"a": torch.tensor([100.0]), "b": torch.tensor([-1.0])}
    assert held.problem(turned) == "the gradient does not point downhill for b"
    assert dataclasses.replace(held, floor=Floor(2.0, 0.05)).problem(turned) is None


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_gradient_of_another_size_than_the_first_is_seen(factor):
    held = judge(Floor(max_rel_err=9.0, min_cosine=0.05))
    assert held.problem(found()) is None
    scaled = {name: factor * g for name, g in found().items()}
    still = distance(RIGHT, RIGHT)
    assert held.problem(scaled, still).startswith(f"the gradient's norm is {factor:g} times")


def test_a_floor_follows_from_error_and_depth():
    floor = Floor.of_stored(1e-4, 4)
    assert floor.max_rel_err == pytest.approx(0.08)
    assert floor.min_cosine == pytest.approx(math.sqrt(1 - 0.08**2))
    assert Floor.of_stored(0.1, 16) == Floor(pytest.approx(4 * math.sqrt(1.6)), LEAST_COSINE)


@pytest.mark.parametrize("name", CODECS)
def test_what_a_codec_does_to_a_vector_is_what_it_says(name):
    codec = CODECS[name]()
    x = torch.randn(512, 256, generator=torch.Generator().manual_seed(1))
    encoded = codec.encode(x)
    error = ((encoded.decode(encoded.parts) - x).norm() / x.norm()).item()
    assert error == pytest.approx(codec.relative_error(), rel=0.25)


def test_a_layer_below_hands_its_floor_on():
    chain = tiny.chain_of(tiny.step("mlp-chain"))
    over = strategies.get("offload(over=compressed(codec=int8))")
    assert over.floor(chain) == strategies.get("compressed(codec=int8)").floor(chain)
    assert over.floor(chain) is not None
    assert strategies.get("every_layer").floor(chain) is None


# In fp64.


@pytest.mark.parametrize("workload", ["gpt-mini-dropout", "resnet-mini", "llama-mini"])
def test_fp64_is_the_same_step_dropout_included(workload):
    step = tiny.step(workload)
    single, double = gradients.run(step, 3), rounding.precise(step, 3)
    assert double.loss.dtype == torch.float64
    assert single.loss.item() == pytest.approx(double.loss.item(), rel=1e-4)
    assert 0 < distance(double.gradients, single.gradients).error < 1e-4


def test_autocast_rounds_more_and_is_judged_by_that():
    step = tiny.step("gpt-mini")
    step.precision = "bf16-autocast"
    error = distance(rounding.precise(step, 0).gradients, gradients.run(step, 0).gradients).error
    assert 1e-3 < error < 0.1
    assert rounding.unit("bf16-autocast") == 2**-8


@pytest.mark.parametrize("workload", ["gpt-mini", "llama-mini", "vit-mini"])
def test_other_kernels_are_within_rounding(workload):
    record = tiny.measure(workload, "flash_checkpoint")
    assert (record.status, record.reason) == ("ok", None)
    assert 0 < record.grad_fp64_rel_err <= MULTIPLE * record.reference_fp64_rel_err


# Dropout in another precision.


def test_masks_are_what_dropout_dropped():
    """On an accelerator fp64 draws other numbers: here they are made others, and masks mend it."""
    step = tiny.step("gpt-mini-dropout")
    seen = masks.recorded(step, 0)
    assert seen
    with torch.random.fork_rng():
        with masks.replayed(seen):
            outcome = gradients.run(doubled(step), 1)  # another seed
        with masks.replayed(seen):
            again = gradients.run(doubled(step), 2)
        plain = gradients.run(doubled(step), 1)
    assert outcome.loss == again.loss != plain.loss


def test_what_is_dropped_in_the_own_precision_is_dropped_in_fp64():
    step = tiny.step("gpt-mini-dropout")
    torch.manual_seed(0)
    with masks._Dropout(lambda x, p: torch.native_dropout(x, p, train=True)[0]):
        own = gradients.run(step, 0)
    with masks.replayed(masks.recorded(step, 0)):
        right = gradients.run(doubled(step), 3)
    assert distance(right.gradients, own.gradients).error < 1e-6


def doubled(step):
    return TrainingStep(step.workload, copy.deepcopy(step.model).double(), step.batch, step.device)


def test_dropout_that_drops_nothing_is_left_alone():
    x = torch.ones(64)
    with masks._Dropout(lambda *_: 1 / 0):
        assert torch.equal(F.dropout(x, 0.0), x)
        assert torch.equal(F.dropout(x, 0.5, training=False), x)
        assert F.dropout(x, 0.5, inplace=True) is x


# Buffers.


def test_buffers_are_as_far_apart_as_the_plain_model_rounds():
    right = {"mean": torch.tensor([3.0, 4.0]).double(), "count": torch.tensor(2)}
    own = {"mean": torch.tensor([3.0, 4.05]), "count": torch.tensor(7)}
    assert rounding.buffer_error(right, own) == pytest.approx(0.01, rel=1e-4)
    assert rounding.buffer_error({}, {}) == 0.0
