"""FLOPs are counted exactly, recompute apart."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import strategies
from strategies.execution.dispatch import flops_of, in_recompute
from strategies.profiling.flops import FlopCounter, count_flops
from strategies.schedules import plan as plans

N, D = 8, 8  # of tiny's mlp-chain
MATMUL = 2 * N * D * D


def counted(function):
    with FlopCounter() as counter:
        function()
    return counter.flops


def randn(*shape):
    return torch.randn(shape, requires_grad=True)


# Operators.


@pytest.mark.parametrize(
    ("call", "flops"),
    [
        (lambda: torch.ones(3, 4) @ torch.ones(4, 5), 2 * 3 * 4 * 5),
        (lambda: torch.ones(2, 3, 4) @ torch.ones(2, 4, 5), 2 * 2 * 3 * 4 * 5),
        (lambda: F.linear(torch.ones(3, 4), torch.ones(5, 4), torch.ones(5)), 2 * 3 * 4 * 5),
        (lambda: F.conv2d(torch.ones(2, 3, 8, 8), torch.ones(5, 3, 3, 3)), 2 * 2 * 5 * 36 * 3 * 9),
        (lambda: torch.ones(3, 4).relu().exp() + 1, 0),  # element by element: not counted
    ],
)
def test_operators(call, flops):
    assert counted(call) == flops


def test_what_is_no_operator_has_no_flops():
    assert flops_of(len, (), {}, None) == 0


def attention_inputs():
    return [randn(2, 4, 16, 8) for _ in range(3)]


def test_flash_attention_on_a_cpu_is_counted():
    """Two products of [T, D] × [D, T] a head forward; backward computes one of them again, and
    four more."""
    product = 2 * (2 * 4) * 16 * 16 * 8
    query, key, value = attention_inputs()
    with FlopCounter() as counter:
        out = F.scaled_dot_product_attention(query, key, value)
        assert counter.flops == 2 * product
        out.sum().backward()
    assert counter.flops == (2 + 5) * product
    assert counter.recompute_flops == 0


def test_flash_attention_counts_as_math_does():
    def math(query, key, value):
        return (query @ key.mT * 8**-0.5).softmax(-1) @ value

    inputs = attention_inputs()
    flash = counted(lambda: F.scaled_dot_product_attention(*inputs))
    assert flash == counted(lambda: math(*inputs))
    assert flash > 0


# Recompute.


def test_recompute_is_forward_work_inside_backward():
    weight = randn(D, D)
    seen = []

    def block(x):
        seen.append(in_recompute())
        return ((x @ weight).relu() @ weight).relu()

    flops = count_flops(
        lambda: checkpoint(block, randn(N, D), use_reentrant=False).sum(), torch.Tensor.backward
    )
    assert seen == [False, True]
    assert not in_recompute()
    assert flops.forward_flops == 2 * MATMUL
    assert flops.recompute_flops == 2 * MATMUL
    assert flops.step_flops == 2 * MATMUL + 2 * MATMUL + 4 * MATMUL


def test_a_step_without_checkpoints_recomputes_nothing():
    def forward():
        return (randn(N, D) @ randn(D, D)).sum()

    flops = count_flops(forward, torch.Tensor.backward)
    assert flops.forward_flops == MATMUL
    assert flops.step_flops == 3 * MATMUL
    assert flops.recompute_flops == 0


# Closed forms: the papers' chain, one product a block and one in the stem.


def chain_record(layers, spec):
    return tiny.measure("mlp-chain", spec, {"layers": layers, "batch": N, "dim": D})


@pytest.mark.parametrize("layers", [2, 5, 8])
def test_the_chain_without_checkpoints(layers):
    record = chain_record(layers, "none")
    assert record.forward_flops == (layers + 1) * MATMUL
    # Backward has two products a layer, but the batch needs no gradient.
    assert record.step_flops == record.forward_flops + 2 * layers * MATMUL + MATMUL
    assert record.recompute_flops == 0
    assert record.block_forwards == [1] * layers


@pytest.mark.parametrize(("layers", "k"), [(8, 2), (8, 4), (8, 8), (6, 3), (6, 1)])
def test_every_k_recomputes_all_but_one_in_k(layers, k):
    """The textbook's (k − 1)/k, exactly: recompute stops before the product of a group's last."""
    record = chain_record(layers, f"every_k(k={k})")
    of_blocks = layers * MATMUL
    assert record.recompute_flops * k == of_blocks * (k - 1)
    assert record.block_forwards == [2] * layers


@pytest.mark.parametrize(("layers", "k"), [(7, 3), (5, 4), (4, 20)])
def test_every_k_where_k_does_not_divide(layers, k):
    record = chain_record(layers, f"every_k(k={k})")
    groups = -(-layers // k)
    assert record.recompute_flops == (layers - groups) * MATMUL


def test_sqrt_does_not_recompute_its_last_group():
    record = chain_record(6, "sqrt")  # groups of ⌈√6⌉ = 3: [0 1 2] 3 4 5
    assert record.plan == "[0 1 2] 3 4 5"
    assert record.recompute_flops == 2 * MATMUL
    assert record.block_forwards == [2, 2, 2, 1, 1, 1]


@pytest.mark.parametrize(
    "text", ["[[0 1] 2 [3 4] 5]", "[0 [1 [2 [3 [4 [5]]]]]]", "0 [1 2] 3 [4] 5"]
)
def test_nested_plans_recompute_as_the_plan_says(text):
    step = tiny.step("mlp-chain")
    plain = count_flops(step.forward, step.backward)
    with tiny.under(step, text) as plan:
        flops = count_flops(step.forward, step.backward)
    entered = plans.forward_counts(plan, 6)
    # Each time that a recompute ends in a block, it stops before that block's product.
    stops = len(list(_groups_that_end_in_a_block(plan)))
    assert flops.recompute_flops == (sum(entered) - 6 - stops) * MATMUL
    assert flops.step_flops == plain.step_flops + flops.recompute_flops


def _groups_that_end_in_a_block(nodes):
    for node in nodes:
        if not isinstance(node, int):
            yield from [node] if isinstance(node[-1], int) else []
            yield from _groups_that_end_in_a_block(node)


# Every exact strategy: recompute is what it adds to the step, no more and no less.


def supported(workload):
    model = tiny.step(workload).model
    for name in strategies.available():
        for point in type(strategies.get(name)).grid():
            if point.needs_profile:  # tests/test_budget.py
                continue
            try:
                strategies.apply(model, point).undo()
            except strategies.Unsupported:
                continue
            yield point


def flops_of_a_step(workload, spec):
    step = tiny.step(workload)
    with strategies.apply(step.model, spec, blocks=step.workload.blocks):
        return count_flops(step.forward, step.backward)


def flops_of_a_record(workload, spec):
    record = tiny.record(workload, spec)
    assert record.status == "ok", spec
    return record


@pytest.mark.parametrize(
    ("workload", "counted_by"),
    [
        ("mlp-chain", flops_of_a_record),
        *(
            pytest.param(name, flops_of_a_step, marks=pytest.mark.long)
            for name in ("gpt-mini-dropout", "llama-mini", "resnet-mini")
        ),
    ],
)
def test_recompute_is_the_steps_surplus(workload, counted_by):
    exact = [point.spec() for point in supported(workload) if point.exact]
    assert "every_layer" in exact
    none = counted_by(workload, "none")
    for spec in exact:
        under = counted_by(workload, spec)
        assert under.forward_flops == none.forward_flops, spec
        assert under.step_flops - none.step_flops == under.recompute_flops, spec


def test_flash_attention_on_a_workload():
    """Forward as math attention; backward recomputes QKᵀ tile by tile: one product a block."""
    math, flash = (tiny.measure("gpt-mini", options={"attention": a}) for a in ("math", "flash"))
    assert math.forward_flops == flash.forward_flops
    o = math.workload_options
    product = 2 * o["batch"] * o["seq"] ** 2 * o["dim"]
    assert flash.step_flops - math.step_flops == o["layers"] * product
    assert (math.attention_kernel, flash.attention_kernel) == ("math", "flash")


def test_flash_checkpoint_adds_both():
    flash = tiny.measure("gpt-mini", options={"attention": "flash"})
    both = tiny.record("gpt-mini", "flash_checkpoint")
    assert both.attention_kernel == "sdpa-flash"
    assert both.step_flops - flash.step_flops == both.recompute_flops > 0
