"""Bytes and FLOPs of a transformer block, counted, against the published closed form.

Korthikanti et al. 2022 (arXiv 2205.05198, §4): with s tokens, batch b, width h and a heads, 16-bit
training keeps s·b·h·(34 + 5·a·s/h) bytes a layer. A layer is the difference of two models, one of
three blocks and one of two; nothing here is computed by the formula that it is compared with.
"""

from __future__ import annotations

from collections import Counter

import pytest
from effort import few
from simulated import kept, kept_bytes, simulated

from bench import workloads

SHAPES = ("22b", "175b")
CORE = "selective(variant=attention_core)"
every_shape = pytest.mark.parametrize("size", few(SHAPES))


def shape_of(size):
    """s, b, h and a of the paper's table 3."""
    shape = workloads.get(f"korthikanti-{size}")
    return shape.seq, shape.batch, shape.dim, shape.heads


def traces(size, spec="none", **given):
    """Of three blocks and of two."""
    given = {"precision": "fp16", **given}
    return [simulated(f"korthikanti-{size}", spec, layers=n, **given) for n in (3, 2)]


def bytes_per_layer(size, spec="none", **given):
    """Kept for backward."""
    three, two = traces(size, spec, **given)
    return kept_bytes(three) - kept_bytes(two)


def flops_per_layer(size, spec="none", **given):
    """Forward, recompute, step."""
    three, two = traces(size, spec, **given)
    return tuple(
        getattr(three, name) - getattr(two, name)
        for name in ("forward_flops", "recompute_flops", "step_flops")
    )


@pytest.mark.parametrize(
    ("size", "layers", "heads", "dim", "batch"),
    [
        ("22b", 48, 64, 6144, 4),
        ("175b", 96, 96, 12288, 1),
        ("530b", 105, 128, 20480, 1),
        ("1t", 128, 160, 25600, 1),
    ],
)
def test_shapes_are_those_of_table_3(size, layers, heads, dim, batch):
    shape = workloads.get(f"korthikanti-{size}")
    assert (shape.layers, shape.heads, shape.dim, shape.batch) == (layers, heads, dim, batch)
    assert (shape.seq, shape.vocab, shape.dropout) == (2048, 51200, 0.1)


@every_shape
def test_a_layer_keeps_the_published_bytes(size):
    """Within 0.1 %; to the byte with the norms' statistics, four fp32 numbers for each token."""
    s, b, h, a = shape_of(size)
    published = s * b * (34 * h + 5 * a * s)
    counted = bytes_per_layer(size)
    assert counted == pytest.approx(published, rel=1e-3)
    assert counted == published + 4 * 4 * s * b


@every_shape
def test_published_parts(size):
    """Attention 11 + 5as/h, MLP 19, layer norms 4: each with what it keeps as its input.

    Norms keep the residual stream, which the sums of the block make; a norm's own result is what
    attention or MLP keeps.
    """
    s, b, h, a = shape_of(size)
    found = Counter()
    for life in kept(traces(size)[0]):
        if not life.module.startswith("h.1"):
            continue
        inside = life.module.removeprefix("h.1").removeprefix(".").partition(".")[0]
        statistic = inside.startswith("ln") and life.size_bytes == 4 * s * b
        found["statistics" if statistic else inside] += life.size_bytes / (s * b * h)
    assert found["attn"] + found["ln_1"] == pytest.approx(11 + 5 * a * s / h)
    assert found["mlp"] + found["ln_2"] == pytest.approx(19)
    assert found[""] == pytest.approx(4)
    assert found["statistics"] == pytest.approx(16 / h)
    assert set(found) == {"attn", "ln_1", "mlp", "ln_2", "", "statistics"}


@every_shape
def test_without_the_attention_core_34_are_left(size):
    s, b, h, _ = shape_of(size)
    counted = bytes_per_layer(size, CORE)
    assert counted == pytest.approx(34 * s * b * h, rel=1e-3)
    assert counted == 34 * s * b * h + 16 * s * b


@every_shape
def test_full_recompute_keeps_the_input(size):
    s, b, h, _ = shape_of(size)
    assert bytes_per_layer(size, "every_layer") == 2 * s * b * h
    assert bytes_per_layer(size, "offload") == 0


@every_shape
def test_dropout_of_a_cpu_reads_higher(size):
    """Masks of two bytes, not one: 36 + 6as/h, and statistics in 16 bit. 15 to 17 per cent."""
    s, b, h, a = shape_of(size)
    on_cpu = bytes_per_layer(size, as_cuda=False)
    assert on_cpu == s * b * (36 * h + 6 * a * s) + 4 * 2 * s * b
    assert 1.15 < on_cpu / bytes_per_layer(size) < 1.17


@every_shape
def test_flash_attention_keeps_no_square(size):
    """Of 34, without the two masks: 32, and one fp32 normaliser for each head and token.

    Without flash, and without dropout, 2·a·s/h more for softmax's result.
    """
    s, b, h, a = shape_of(size)
    flash = bytes_per_layer(size, dropout=0.0, attention="flash")
    assert flash == 32 * s * b * h + 4 * a * s * b + 16 * s * b
    plain = bytes_per_layer(size, dropout=0.0)
    assert plain - flash == 2 * a * s * s * b - 4 * a * s * b


@every_shape
def test_flops_of_a_layer(size):
    """24·b·s·h² of the weights, 4·b·s²·h of QKᵀ and of its product with V; backward is twice that.

    All pairs of tokens are counted: PyTorch computes them before the causal mask.
    """
    s, b, h, _ = shape_of(size)
    forward = 24 * b * s * h**2 + 4 * b * s**2 * h
    assert flops_per_layer(size) == (forward, 0, 3 * forward)


@every_shape
def test_flops_of_recomputing_the_core(size):
    """The paper counts both products, 4·b·s²·h. PyTorch stops when the last saved tensor is there.

    That is before the second product, whose inputs are saved, not its result: half of it.
    """
    s, b, h, _ = shape_of(size)
    forward = 24 * b * s * h**2 + 4 * b * s**2 * h
    product = 2 * b * s**2 * h
    assert flops_per_layer(size, CORE) == (forward, product, 3 * forward + product)


@every_shape
def test_flops_of_full_recompute(size):
    """All of forward, since the dropout at the block's end saves its mask after the last product.

    Without dropout that product, 8·b·s·h², is left out.
    """
    s, b, h, _ = shape_of(size)
    forward = 24 * b * s * h**2 + 4 * b * s**2 * h
    assert flops_per_layer(size, "every_layer")[1] == forward
    assert flops_per_layer(size, "every_layer", dropout=0.0)[1] == forward - 8 * b * s * h**2


@pytest.mark.parametrize(
    ("size", "overhead", "saved"), few([("175b", 0.027, 0.70), ("530b", 0.016, 0.65)])
)
def test_selective_recompute_costs_a_sixth_of_what_is_published(size, overhead, saved):
    """The paper (§5): 2.7 and 1.6 % more FLOPs for 70 and 65 % fewer bytes. The bytes agree.

    Its FLOPs are s/6h, which is three times both products of the core over a step's 72·b·s·h².
    Running them again once is a third of that, and the early stop halves it.
    """
    s, _, h, _ = shape_of(size)
    _, recomputed, step = flops_per_layer(size, CORE)
    plain = step - recomputed
    assert s / (6 * h) == pytest.approx(overhead, abs=0.001)
    assert recomputed / plain == pytest.approx(s / (36 * h) / (1 + s / (6 * h)))
    assert 5.8 < overhead / (recomputed / plain) < 6.2
    saving = 1 - bytes_per_layer(size, CORE) / bytes_per_layer(size)
    assert saving == pytest.approx(saved, abs=0.01)
