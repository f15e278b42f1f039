"""One training step, as every instrument runs it."""

import pytest
import tiny
import torch

from bench import workloads
from bench.cells.optimizers import make_optimizer
from bench.cells.training import TrainingStep, make_model
from strategies.profiling.ledger import unique_bytes


def build(workload="mlp-chain", precision="fp32", optimizer="none", **options):
    sized = workloads.get(workload, **{**tiny.OPTIONS[workload], **options})
    return TrainingStep.build(sized, tiny.CPU, precision, optimizer)


def parameter_bytes(step):
    return sum(p.nbytes for p in step.model.parameters())


def test_a_step_leaves_gradients_and_returns_nothing():
    step = build()
    assert step() is None
    first = [p.grad.clone() for p in step.model.parameters()]
    step()  # from no gradients again: nothing adds up
    second = [p.grad for p in step.model.parameters()]
    assert all(map(torch.equal, first, second))
    step.drop_gradients()
    assert all(p.grad is None for p in step.model.parameters())


def test_without_an_optimizer_nothing_is_updated():
    step = build()
    before = [p.clone() for p in step.model.parameters()]
    step()
    assert all(map(torch.equal, before, step.model.parameters()))
    assert step.optimizer_tensors() == []


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_optimizer_updates_a_little(optimizer):
    step = build(optimizer=optimizer)
    before = [p.clone() for p in step.model.parameters()]
    step()
    for old, new in zip(before, step.model.parameters(), strict=True):
        assert not torch.equal(old, new)
        assert torch.allclose(old, new, atol=1e-4)


@pytest.mark.parametrize(("optimizer", "copies", "counters"), [("sgd", 1, 0), ("adamw", 2, 1)])
def test_optimizer_state(optimizer, copies, counters):
    """Momentum; or two moments and, a parameter, the number of steps as a float."""
    step = build(optimizer=optimizer)
    assert step.optimizer_tensors() == []  # it exists from the first step on
    step()
    n_parameters = len(list(step.model.parameters()))
    expected = copies * parameter_bytes(step) + counters * 4 * n_parameters
    assert unique_bytes(step.optimizer_tensors()) == expected
    resident = parameter_bytes(step) + unique_bytes(step.batch) + expected
    assert unique_bytes(step.resident_tensors()) == resident


def test_resident_tensors_include_buffers():
    step = build("resnet-mini")
    buffers = list(step.model.buffers())
    assert buffers
    assert {id(b) for b in buffers} <= {id(t) for t in step.resident_tensors()}


def test_unique_bytes_are_of_storages():
    base = torch.ones(100)
    assert unique_bytes([base, base.view(10, 10), base[:5].detach()]) == 400
    assert unique_bytes([base[:5]]) == 400
    assert unique_bytes([base, torch.ones(3)]) == 412
    assert unique_bytes([]) == 0


def test_autocast_computes_in_half_and_keeps_full_gradients():
    seen = []
    step = build("gpt-mini", precision="bf16-autocast")
    step.model.h[0].attn.c_attn.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    step()
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in step.model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in step.model.parameters()} == {torch.float32}
    assert step.forward().dtype == torch.float32


def test_full_precision_has_no_autocast():
    with build().autocast():
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("workload", ["gpt-mini", "vit-mini"])
def test_pure_half_precision_is_half_throughout(workload):
    step = build(workload, precision="bf16")
    assert {p.dtype for p in step.model.parameters()} == {torch.bfloat16}
    assert not any(t.dtype == torch.float32 for t in step.batch)
    step()
    assert {p.grad.dtype for p in step.model.parameters()} == {torch.bfloat16}


def test_the_default_dtype_is_put_back():
    make_model(workloads.get("mlp-chain", dim=4, batch=2), "bf16")
    assert torch.get_default_dtype() == torch.float32


def test_gradients_are_scaled_up_and_down():
    """The scaler itself works on a CPU too; only its precision needs an accelerator."""
    step = build(optimizer="sgd")
    step.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    plain = build()
    assert step.forward().item() == pytest.approx(1024 * plain.forward().item())
    step()
    plain()
    weight = step.model.stem.weight
    assert torch.equal(weight.grad, plain.model.stem.weight.grad)  # unscaled before the update
    assert torch.equal(step.update_rule.state[weight]["momentum_buffer"], weight.grad)


def test_no_optimizer_is_none():
    assert make_optimizer("none", torch.nn.Linear(1, 1)) is None
