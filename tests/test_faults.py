"""Wrong strategies are caught, with a reason that names what is wrong."""

import planted
import pytest
import tiny

from bench.run import executor

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
