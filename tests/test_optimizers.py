"""Scaled gradients, fp32 weights for the optimizer, fused and 8-bit optimizers: by arithmetic."""

import math

import msgspec
import pytest
import simulated
import tiny
import torch
from effort import few
from simulated import cell, simulation
from torch import nn

from bench.advise import remedies
from bench.advise.candidates import NONE
from bench.advise.workbench import Workbench
from bench.cells import training
from bench.cells.masters import Masters
from bench.cells.optimizers import BLOCK, LEAST, make_optimizer
from bench.cells.training import TrainingStep, unmoved
from bench.measure import memory
from bench.simulate.record import parts_of
from bench.simulate.trace import OPTIMIZER
from bench.store.parts import merged
from bench.studies.validation import compare

WORKLOAD = "mlp-chain"
WIDE = {"dim": 64, "layers": 2}
"""So that some parameters have as many values as are kept in 8 bits, and others have fewer."""
SCALER_BYTES = 4 + 4  # its scale, and its count of steps


def counts():
    model = cell(WORKLOAD, **WIDE).make_workload().model()
    return [parameter.numel() for parameter in model.parameters()]


def fields(**given):
    return merged(*parts_of(simulation(WORKLOAD, **WIDE, **given)))


def update_bytes(**given):
    """The most that is alive in the update, what is there before and the batch aside."""
    simulated_step = simulation(WORKLOAD, **WIDE, **given)
    alive, events = simulated_step.trace.alive_bytes(), simulated_step.trace.events
    batch = sum(t.nbytes for t in simulated_step.step.batch_tensors())
    update = [b for b, e in zip(alive, events, strict=True) if e.phase == OPTIMIZER]
    return max((alive[-1], *update)) - batch


# By arithmetic.


@pytest.mark.parametrize(("kind", "moments"), [("sgd", 1), ("adamw", 2)])
def test_8_bits_are_a_byte_a_value_and_scales_and_tables(kind, moments):
    large = [count for count in counts() if count >= LEAST]
    small = [count for count in counts() if count < LEAST]
    assert large
    assert small
    state = sum(count + 4 * math.ceil(count / BLOCK) for count in large) + 4 * sum(small)
    found = fields(optimizer=f"{kind}-8bit", precision="bf16")
    assert found["optimizer_bytes"] == moments * (state + 4 * 256)
    assert found["parameter_bytes"] == 2 * sum(counts())


@pytest.mark.parametrize("precision", ["bf16-master", "fp16-master"])
def test_fp32_weights_are_four_bytes_for_good_and_four_in_the_update(precision):
    values, number = sum(counts()), len(counts())
    given = {"precision": precision, "optimizer": "adamw-fused"}
    found, steps = fields(**given), 4 * number
    scaler = SCALER_BYTES if precision in training.SCALED else 0
    assert found["optimizer_bytes"] == (4 + 4 + 4) * values + steps + scaler
    assert (found["parameter_bytes"], found["gradient_bytes"]) == (2 * values, 2 * values)
    whole = (2 + 2 + 4 + 8 + 4) * values + steps + scaler
    assert whole <= update_bytes(**given) <= whole + 32  # a few numbers of the scaler's


def test_a_scaler_needs_no_room_but_for_a_few_numbers():
    values, number = sum(counts()), len(counts())
    whole = (4 + 4 + 8) * values + 4 * number + SCALER_BYTES
    given = {"precision": "fp16-gradscaler", "optimizer": "adamw-fused"}
    assert whole < update_bytes(**given) <= whole + 32
    plain = update_bytes(precision="bf16-autocast", optimizer="adamw")
    scaled = update_bytes(precision="fp16-gradscaler", optimizer="adamw")
    assert plain + SCALER_BYTES < scaled <= plain + SCALER_BYTES + 32


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_fused_update_needs_nothing_besides(kind):
    values, number = sum(counts()), len(counts())
    moments = {"sgd": 4 * values, "adamw": 8 * values + 4 * number}[kind]
    assert update_bytes(optimizer=f"{kind}-fused") == 8 * values + moments
    if kind == "adamw":  # over lists of tensors: the denominators of all parameters
        assert update_bytes(optimizer=kind) >= 8 * values + 8 * values + 4 * values


# What runs is what is simulated.

REAL = (
    ("mlp-chain", "every_layer", "fp16-gradscaler", "adamw"),
    ("gpt-mini", "none", "fp16-master", "sgd-fused"),
    ("llama-mini", "sqrt", "bf16-master", "adamw"),
    ("mlp-chain", "none", "fp16-gradscaler", "adamw-fused"),
)


@pytest.mark.parametrize(("workload", "spec", "precision", "optimizer"), few(REAL, 2))
def test_simulated_bytes_are_real_bytes(workload, spec, precision, optimizer, monkeypatch):
    monkeypatch.setattr(memory, "measure_cpu", lambda *_: memory.Memory(1, 1))
    one = cell(workload, spec, precision=precision, optimizer=optimizer)
    row = compare(msgspec.structs.replace(one, device="cpu"))
    assert (row.tensor_peak_error, row.after_forward_error) == (0, 0)
    assert row.simulated_peak_bytes > row.simulated_after_forward_bytes > 0


@pytest.mark.parametrize(
    ("precision", "optimizer"), few([("bf16-master", "adamw"), ("fp16-master", "sgd")])
)
def test_the_gate_passes_a_step_with_fp32_weights(precision, optimizer):
    record = tiny.measure("mlp-chain", "every_layer", precision=precision, optimizer=optimizer)
    assert (record.status, record.reason) == ("ok", None)
    assert record.optimizer_bytes > 2 * record.parameter_bytes


# What fp32 weights are for.


def test_weights_move_in_fp32_and_are_rounded_into_the_model():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).bfloat16()
    twin = nn.Linear(4, 3)
    twin.load_state_dict(model.state_dict())
    masters = Masters(model.parameters())
    rules = [torch.optim.SGD(one.parameters(), lr=1e-4) for one in (masters, twin)]
    start = model.weight.detach().clone()
    for _ in range(40):
        model.zero_grad()
        model(torch.ones(2, 4, dtype=torch.bfloat16)).sum().backward()
        for own, other in zip(model.parameters(), twin.parameters(), strict=True):
            other.grad = own.grad.float()
        masters.take_gradients()
        for rule in rules:
            rule.step()
        masters.give_weights()
    assert all(map(torch.equal, masters.parameters(), twin.parameters()))
    assert torch.equal(model.weight, twin.weight.bfloat16())
    assert not torch.equal(model.weight, start)  # each update alone is lost in rounding
    assert all(master.grad is None for master in masters.parameters())


def test_gradients_are_scaled_back_in_fp32():
    workload = tiny.step("mlp-chain").workload
    step = TrainingStep.build(workload, tiny.CPU, "fp16-master", "sgd")
    step()
    scale = training.SCALED["fp16-master"]
    weights = zip(step.model.parameters(), step.masters.parameters(), strict=True)
    for own, master in weights:
        momentum = step.update_rule.state[master]["momentum_buffer"]
        assert torch.equal(momentum, own.grad.float() / scale)


def test_planning_moves_no_fp32_weight():
    workload = tiny.step("mlp-chain").workload
    step = TrainingStep.build(workload, tiny.CPU, "bf16-master", "adamw")
    step()
    before = [master.clone() for master in step.masters.parameters()]
    with unmoved(step):
        step()
        assert not all(map(torch.equal, before, step.masters.parameters()))
    assert all(map(torch.equal, before, step.masters.parameters()))


def test_an_8_bit_optimizer_is_one_everywhere_in_the_model():
    model = nn.Linear(LEAST, 2)
    rule = make_optimizer("adamw-8bit", model)
    model(torch.ones(1, LEAST)).sum().backward()
    rule.step()
    assert rule.state[model.weight]["moment1"].dtype == torch.uint8
    assert rule.state[model.bias]["moment1"].dtype == torch.float32


# Advice.


@pytest.mark.parametrize(
    ("remedy", "precision", "optimizer"),
    few(
        [
            (remedies._released, "fp16-gradscaler", "adamw"),
            (remedies._eight_bits, "bf16", "adamw-8bit"),
            (remedies._eight_bits, "bf16-master", "adamw"),
            (remedies._released, "bf16-master", "sgd"),
        ],
        2,
    ),
)
def test_no_remedy_is_what_the_step_has_or_cannot_do(remedy, precision, optimizer):
    work = Workbench(cell("mlp-chain", precision=precision, optimizer=optimizer), 10**9)
    said = remedy(remedies.Base(work, NONE, work.simulate(NONE)))
    assert (said.helps, said.peak_allocated_bytes) == (False, None)
    assert precision in said.how


def test_a_remedy_of_8_bits_is_what_such_a_cell_is():
    """But for the tables, the blocks of 512 bytes, and what a scale's own block is rounded to."""
    work = Workbench(cell(WORKLOAD, optimizer="adamw", **WIDE), 10**9)
    said = remedies._eight_bits(remedies.Base(work, NONE, work.simulate(NONE)))
    traced = simulated.simulated(WORKLOAD, optimizer="adamw-8bit", **WIDE)
    blocks = 512 * 2 * len(counts()) + 2 * 1024
    assert abs(max(traced.alive_bytes(512)) - said.peak_allocated_bytes) <= blocks
