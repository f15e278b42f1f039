"""One cell, measured in this process: every field of its record."""

import msgspec
import pytest
import tiny
import torch
from torch import nn

import strategies
from bench.cells.training import TrainingStep, unmoved
from bench.measure import memory
from bench.measure.digests import digests
from bench.measure.forwards import count_forwards
from bench.run import predicted, worker
from bench.run.blank import blank
from bench.simulate import calibrate
from bench.store.records import Record

# Fields that stay empty on a CPU without time.
EMPTY = {"peak_reserved_bytes", "memory_limit_bytes", "modelled_step_s", "reason"}


def numbers(record, *names):
    return [getattr(record, name) for name in names]


# What is known without measuring.


def test_a_blank_record_describes_the_cell():
    cell = tiny.cell("gpt-mini", "every_k(k=3)", optimizer="sgd", seed=5)
    record = blank(cell, "timeout", "too slow")
    assert (record.status, record.reason) == ("timeout", "too slow")
    assert (record.workload, record.strategy, record.spec) == (
        "gpt-mini",
        "every_k",
        "every_k(k=3)",
    )
    assert record.params == {"k": 3, "keep_last": False}
    assert record.workload_options == cell.make_workload().options()
    assert (record.optimizer, record.seed, record.threads) == ("sgd", 5, 1)
    assert record.exact is True
    assert record.textbook_memory == "O(L/k·N·d)"
    assert record.cell_id == cell.cell_id()
    assert record.torch_version == torch.__version__
    assert record.peak_allocated_bytes is None


# Measuring.


SIMULATED = {
    *("peak_floor_bytes", "max_allocated_bytes", "steady_reserved_bytes"),
    *("expandable_reserved_bytes", "workspace_bytes"),
}
"""Of simulated devices alone."""


def test_every_field_of_a_good_cell_is_filled():
    record = tiny.measure("gpt-mini", "every_layer")
    empty = {name for name in Record.__struct_fields__ if getattr(record, name) is None}
    assert record.status == "ok"
    assert not {f for f in empty if f.endswith(("_flops", "_bytes")) and f not in EMPTY} - SIMULATED
    assert record.plan == "[0] [1] [2] [3] [4] [5]"
    assert record.block_forwards == [2] * 6
    assert record.grads_bitwise_equal is True
    assert (record.grad_max_rel_err, record.grads_missing) == (0.0, [])
    assert record.grad_min_cosine == pytest.approx(1.0)
    assert (record.buffers_equal, record.rng_restored) == (True, True)
    assert record.loss == record.reference_loss
    assert record.step_s == record.none_step_s == record.warmup_step_s == []
    assert record.duration_s > 0


def test_memory_adds_up():
    record = tiny.measure("resnet-mini", "every_layer")
    resident = sum(numbers(record, "parameter_bytes", "buffer_bytes", "batch_bytes"))
    assert record.optimizer_bytes == 0
    assert record.buffer_bytes > 0
    assert record.gradient_bytes == record.parameter_bytes
    assert record.after_forward_allocated_bytes == resident + record.saved_after_forward_bytes
    assert record.peak_allocated_bytes > record.after_forward_allocated_bytes
    assert record.resident_peak_bytes > record.peak_allocated_bytes


@pytest.mark.parametrize(("optimizer", "copies"), [("sgd", 1), ("adamw", 2)])
def test_an_optimizer_is_counted(optimizer, copies):
    plain = tiny.record("mlp-chain", "every_layer")
    record = tiny.measure("mlp-chain", "every_layer", optimizer=optimizer)
    counters = 4 * 14 if optimizer == "adamw" else 0  # one number for each of 14 parameters
    assert record.optimizer_bytes == copies * record.parameter_bytes + counters
    assert record.saved_after_forward_bytes == plain.saved_after_forward_bytes
    # The state exists before the step that is measured, so it is in every figure.
    surplus = record.after_forward_allocated_bytes - plain.after_forward_allocated_bytes
    assert surplus == record.optimizer_bytes
    assert record.peak_allocated_bytes >= plain.peak_allocated_bytes + record.optimizer_bytes
    # Gradients are compared before any update.
    assert numbers(record, "loss", "forward_flops") == numbers(plain, "loss", "forward_flops")


def test_autocast_is_measured_as_it_is():
    full = tiny.record("gpt-mini", "every_layer")
    half = tiny.measure("gpt-mini", "every_layer", precision="bf16-autocast")
    assert half.status == "ok"
    assert half.grads_bitwise_equal is True
    assert half.loss == pytest.approx(full.loss, rel=0.02)
    assert half.loss != full.loss
    assert half.recompute_flops == half.predicted_recompute_flops


def test_a_lossy_strategy_is_ok_with_its_error():
    record = tiny.record("gpt-mini", "compressed(codec=int8)")
    assert (record.status, record.exact, record.grads_bitwise_equal) == ("ok", False, False)
    assert 0 < record.grad_max_rel_err < 0.2
    assert 0.98 < record.grad_min_cosine < 1
    assert record.loss == record.reference_loss  # only backward sees compressed activations
    assert record.storage == "int8 on device"


def test_coarser_codecs_have_larger_errors():
    errors = {
        codec: tiny.record("mlp-chain", f"compressed(codec={codec})").grad_max_rel_err
        for codec in ("fp16", "bf16", "int4")
    }
    assert errors["fp16"] < errors["bf16"] < errors["int4"]


def test_offload_is_exact():
    record = tiny.record("mlp-chain", "offload")
    assert record.grads_bitwise_equal is True
    assert record.storage.startswith("raw on ")


def test_what_cannot_run_says_so():
    with pytest.raises(strategies.Unsupported, match="no attention"):
        tiny.measure("mlp-chain", "selective")


def test_notes_come_along():
    record = tiny.measure("mlp-chain", "every_k(k=20)")
    assert record.notes == ["k=20 exceeds the 6 blocks: one recompute group holds them all"]
    assert record.plan == "[0 1 2 3 4 5]"


def test_blocks_in_several_containers_are_one_chain():
    record = tiny.record("resnet-mini", "every_k(k=4)")
    assert record.plan == "[0] [1] [2] [3]"  # split where code between the stages would be skipped


@pytest.mark.long
def test_seeds_decide_dropout():
    one, two, other = (tiny.measure("gpt-mini-dropout", seed=s).loss for s in (0, 0, 1))
    assert one == two != other


# Time.


@pytest.fixture(autouse=True)
def ceilings(monkeypatch):
    """This CPU's, which take a second and 270 MB to measure."""
    monkeypatch.setattr(calibrate, "ceilings", lambda: (1e10, 1e10, 1e-6))
    monkeypatch.setattr(calibrate, "this_cpu", calibrate.this_cpu.__wrapped__)


def test_time_is_raw_and_paired():
    record = tiny.measure("mlp-chain", "every_layer", rounds=4, warmup=2)
    assert [len(record.step_s), len(record.none_step_s), len(record.warmup_step_s)] == [4, 4, 2]
    assert all(seconds > 0 for seconds in record.step_s + record.none_step_s)


@pytest.mark.long
def test_time_does_not_change_what_else_is_measured():
    names = ("peak_allocated_bytes", "saved_after_forward_bytes", "step_flops", "loss")
    timed = tiny.measure("gpt-mini", "every_layer", rounds=1)
    assert numbers(timed, *names) == numbers(tiny.record("gpt-mini", "every_layer"), *names)


@pytest.fixture
def kernels(monkeypatch):
    """The attention kernels of every step that is timed."""
    seen = []
    call = TrainingStep.__call__

    def watched(step):
        cores = [m.kernel for m in step.model.modules() if hasattr(m, "kernel")]
        seen.append(cores[0] if cores else None)
        call(step)

    monkeypatch.setattr(TrainingStep, "__call__", watched)
    return seen


@pytest.mark.parametrize("attention", ["math", "flash"])
def test_the_reference_of_time_is_math_attention(kernels, attention):
    """So that the rows of one table share one reference, as flash attention is a row itself."""
    tiny.measure("gpt-mini", options={"layers": 2, "attention": attention}, rounds=2, warmup=0)
    assert kernels == ["math", attention, attention, "math"]


def test_without_attention_the_reference_is_the_model_itself(kernels):
    tiny.measure("mlp-chain", "every_layer", rounds=2, warmup=0)
    assert kernels == [None] * 4


# Counting forwards.


def test_forwards_are_counted_and_left_alone():
    blocks = [nn.Linear(2, 2) for _ in range(3)]
    x = torch.ones(1, 2)
    with count_forwards(blocks) as counts:
        blocks[0](x)
        blocks[2](x)
        blocks[2](x)
    blocks[1](x)
    assert counts == [1, 0, 2]
    assert all("forward" not in block.__dict__ for block in blocks)


def test_a_block_that_is_used_twice_is_counted_once_a_call():
    block = nn.Linear(2, 2)
    with count_forwards([block, block]) as counts:
        block(block(torch.ones(1, 2)))
    assert sum(counts) == 2


def test_a_failing_forward_leaves_nothing_behind():
    block = nn.Linear(2, 2)
    with pytest.raises(RuntimeError), count_forwards([block]):
        block(torch.ones(1, 5))
    assert "forward" not in block.__dict__


# Resting boundaries.


def test_boundaries_at_rest_are_sized_by_what_blocks_get():
    step = tiny.step("llama-mini")  # its blocks get tables beside the boundary
    found = predicted._boundaries(step, tiny.chain_of(step))
    assert [tuple(b.shape) for b in found] == [(1, 16, 16)] * 6
    assert not any(block._forward_pre_hooks for block in tiny.chain_of(step).blocks)


def test_the_model_is_as_three_updates_make_it_after_measuring():
    """No pass leaves anything behind; the updates are those of a model without a strategy."""
    cell = tiny.cell("resnet-mini", "every_layer")
    bench = worker._bench_of(cell, exact=True)
    step = bench.step
    for measure in (bench.memory, bench.predicted, bench.flops):
        measure()
        assert all(p.grad is None for p in step.model.parameters()), measure.__name__
        assert "ckpt_applied" not in step.model.__dict__
    after = digests(step.model.named_parameters())
    assert after == bench.gate.seen.traces[-1].parameters
    assert not set(after.items()) & set(bench.gate.seen.parameters.items())


@pytest.mark.parametrize(
    ("fields", "steps"), [({}, 5), ({"rounds": 2, "warmup": 1}, 8), ({"optimizer": "sgd"}, 5)]
)
def test_every_pass_is_checked(fields, steps):
    """Three updates, memory, FLOPs, and every step whose time is taken."""
    record = tiny.measure("gpt-mini-dropout", "every_layer", options={"layers": 2}, **fields)
    assert (record.status, record.checked_steps, record.parameters_equal) == ("ok", steps, True)


@pytest.mark.parametrize("workload", ["resnet-mini", "gpt-mini-dropout"])
def test_approximate_updates_move_loss_and_statistics_elsewhere(workload):
    """Which is no fault: what a lossy strategy promises is its gradient."""
    record = tiny.measure(workload, "compressed(codec=int8)")
    assert (record.status, record.reason) == ("ok", None)
    assert record.grad_whole_cosine > 0.9


# An optimizer, whose update a plan is made with.


@pytest.mark.parametrize("spec", ["optimal(budget='100%')", "selective_ops(budget='100%')"])
def test_what_is_planned_with_an_update_begins_where_everything_else_does(spec):
    record = tiny.measure("gpt-mini", spec, optimizer="adamw")
    assert (record.status, record.reason) == ("ok", None)


def test_planning_moves_neither_parameters_nor_optimizer_nor_scale():
    workload = tiny.step("mlp-chain").workload
    device = torch.device("cpu")
    step = TrainingStep.build(workload, device, "fp16-gradscaler", "adamw")
    step()
    before = [p.clone() for p in step.model.parameters()]
    moments = [t.clone() for t in step.optimizer_tensors()]
    scale = step.scaler.get_scale()
    with unmoved(step):
        step()
        step.scaler.update(scale / 2)
        assert not all(map(torch.equal, before, step.model.parameters()))
    assert all(map(torch.equal, before, step.model.parameters()))
    assert all(map(torch.equal, moments, step.optimizer_tensors()))
    assert step.scaler.get_scale() == scale


@pytest.mark.parametrize("spec", ["every_layer", "optimal(budget='100%')"])
def test_a_scaled_gradient_is_compared_before_it_is_scaled_back(spec):
    cell = tiny.cell("gpt-mini", spec, optimizer="adamw")  # checked, no CPU cell would have it
    record = worker.measure(msgspec.structs.replace(cell, precision="fp16-gradscaler"))
    assert (record.status, record.reason) == ("ok", None)


def test_reserved_memory_is_without_what_the_gate_keeps():
    usage = memory.Memory(100, 50, reserved_bytes=1000, before_bytes=700)
    assert usage.own_reserved_bytes(600) == 900
    assert memory.Memory(100, 50).own_reserved_bytes(600) is None
