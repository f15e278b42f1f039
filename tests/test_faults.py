"""Wrong strategies are caught, with a reason that names what is wrong."""

import itertools
import re

import planted
import pytest
import tiny
from effort import few

from bench.cells.training import TrainingStep
from bench.run import executor, worker

FAULTS = {
    # spec: workload, reason
    "drops_gradient": ("mlp-chain", "no gradient for blocks.0.linear.weight"),
    "drops_gradient_but_is_lossy": ("mlp-chain", "no gradient for blocks.0.linear.weight"),
    "scales_gradient": ("mlp-chain", "the gradient differs: relative error up to 9.5"),
    "scales_loss": ("mlp-chain", "the loss differs"),
    "forgets_random_state": ("gpt-mini-dropout", "the random state differs after the step"),
    "draws_random_numbers": ("mlp-chain", "the random state differs after the step"),
    "updates_statistics_twice": ("resnet-mini", "buffers (running statistics) differ after"),
    "makes_nan": ("mlp-chain", "the gradient is not finite for blocks.0.linear.weight"),
    "makes_nan_but_is_lossy": ("mlp-chain", "the gradient is not finite for blocks.0.linear"),
}
# What the first step, or the gradient alone, does not show.
LATE = "in step 2: the gradient "
HIDDEN = {
    "doubles_gradient_later": ("mlp-chain", f"{LATE}differs: stem.weight, stem.bias, blocks.0.l"),
    "doubles_gradient_later(anew=True)": ("mlp-chain", f"{LATE}differs: stem.weight, stem.bias"),
    "negates_gradient_later": ("mlp-chain", f"{LATE}differs: stem.weight, stem.bias"),
    "makes_nan_later": ("mlp-chain", f"{LATE}is not finite for stem.weight"),
    "stops_recomputing": ("mlp-chain", "the peak changes from step to step: 37,448, "),
    "stops_recomputing(anew=True)": ("mlp-chain", "the peak changes from step to step: 37,448"),
    "stops_recomputing(after=5)": ("mlp-chain", "recomputation changes from step to step: 12, 1"),
    "changes_parameters": ("mlp-chain", "preparing the strategy changes the parameters: stem.we"),
    "changes_parameters(how=nan)": ("mlp-chain", "preparing the strategy changes the parameters"),
    "changes_parameters(late=True)": ("mlp-chain", "applying the strategy changes the parameters"),
    "changes_parameters_in_backward": (
        "mlp-chain",
        "step 1 changes the parameters: blocks.0.linear.weight",
    ),
    "changes_buffers": ("resnet-mini", "preparing the strategy changes buffers"),
    "negates_but_is_lossy": ("mlp-chain", "the cosine of the gradient is -1, below the strategy's"),
    "negates_but_is_lossy(codec=projection)": ("mlp-chain", "the cosine of the gradient is -0.48"),
    "makes_zero_but_is_lossy": ("mlp-chain", "the cosine of the gradient is 0, below the strategy"),
    "draws_elsewhere": ("mlp-chain", "the random state differs after the step"),
    "draws_elsewhere(whose=numpy)": ("mlp-chain", "the random state differs after the step"),
    "draws_elsewhere(late=False)": ("mlp-chain", "applying the strategy moves the random state"),
}


@pytest.fixture
def plant(tmp_path):
    with planted.found_in(tmp_path):
        yield


@pytest.mark.parametrize("spec", FAULTS)
def test_fault_is_a_mismatch(plant, spec):
    workload, reason = FAULTS[spec]
    record = tiny.measure(workload, spec)
    assert record.status == "mismatch"
    assert record.reason.startswith(reason)
    assert record.grads_missing == (["blocks.0.linear.weight"] if spec.startswith("drops") else [])
    assert record.rng_restored is (spec not in ("forgets_random_state", "draws_random_numbers"))
    assert record.buffers_equal is (spec != "updates_statistics_twice")
    # What is wrong is still measured, so that the row can be looked into.
    assert record.peak_allocated_bytes > 0
    assert record.step_flops > 0


@pytest.mark.parametrize("spec", HIDDEN)
def test_a_fault_that_does_not_show_at_first_is_a_mismatch(plant, spec):
    workload, reason = HIDDEN[spec]
    record = tiny.measure(workload, spec)
    assert record.status == "mismatch"
    assert record.reason.startswith(reason)
    moved = spec.startswith("changes_parameters") or reason.startswith(LATE)
    assert record.parameters_equal is not moved
    assert record.peak_allocated_bytes > 0


@pytest.fixture
def other_bits(monkeypatch):
    """Every gradient comes out with other last bits, as from kernels that add up in any order."""
    build, numbers = worker.build, itertools.count()

    def last_bits(gradient):
        return gradient * (1 + 2**-23 * (1 + next(numbers) % 3))

    def built(*args, **options):
        step = build(*args, **options)
        for parameter in step.model.parameters():
            parameter.register_hook(last_bits)
        return step

    monkeypatch.setattr(worker, "build", built)


@pytest.mark.parametrize(
    ("workload", "spec"),
    few(itertools.product(["mlp-chain", "resnet-mini"], ["none", "every_layer", "offload"]), 3),
)
def test_where_the_plain_model_gives_other_bits_rounding_is_judged(workload, spec, other_bits):
    record = tiny.measure(workload, spec)
    assert record.status == "ok", record.reason
    assert not record.grads_bitwise_equal
    assert 0 < record.grad_fp64_rel_err < 1e-5
    assert worker.UNREPEATABLE in record.notes


@pytest.mark.parametrize(
    ("spec", "reason"),
    {
        "scales_gradient(factor=1.00001)": (
            r"the gradient of blocks\.0\.linear\.weight is 1(\.0\d)?e-05 \(relative\)"
        ),
        "doubles_gradient_later": "in step 2: the gradient of",
        "drops_gradient": "no gradient for",
        "draws_random_numbers": "the random state differs",
    }.items(),
)
def test_a_fault_is_no_rounding(spec, reason, plant, other_bits):
    record = tiny.measure("mlp-chain", spec)
    assert record.status == "mismatch"
    assert re.match(reason, record.reason)


def test_a_fault_of_timed_steps_alone_is_a_mismatch(plant):
    """They are checked as every other step is."""
    record = tiny.measure("mlp-chain", "doubles_gradient_later(after=5)", rounds=3, warmup=1)
    assert record.status == "mismatch"
    assert record.reason.startswith("in a timed step: the gradient differs: stem.weight")


def test_a_reference_that_is_not_finite_is_no_reference(monkeypatch):
    loss = TrainingStep.forward
    monkeypatch.setattr(TrainingStep, "forward", lambda step: loss(step) * float("nan"))
    record = tiny.measure("mlp-chain", "every_layer")
    assert record.status == "mismatch"
    assert record.reason == "the reference's loss is nan: nothing can be compared"


def test_a_millionth_is_measured_as_a_millionth(plant):
    record = tiny.measure("mlp-chain", "scales_gradient")
    assert record.grad_max_rel_err == pytest.approx(1e-6, rel=0.1)
    assert record.grads_bitwise_equal is False
    assert record.loss == record.reference_loss


def test_no_scale_is_no_fault(plant):
    """The strategy itself is fine: what is caught is what it does."""
    record = tiny.measure("mlp-chain", "scales_gradient(factor=1.0)")
    assert (record.status, record.reason) == ("ok", None)
    assert record.grads_bitwise_equal is True


@pytest.mark.parametrize("spec", ["forgets_random_state", "updates_statistics_twice"])
def test_a_fault_needs_something_to_break(plant, spec):
    """Without dropout or batch norms, the same checkpoints are right."""
    assert tiny.measure("mlp-chain", spec).status == "ok"


def test_faults_are_caught_in_a_process_of_their_own(plant):
    cell = tiny.cell("mlp-chain", "drops_gradient")
    record = executor.run(cell)
    assert (record.status, record.reason) == ("mismatch", FAULTS["drops_gradient"][1])
