"""The workloads are what they say: size, data, cost model, and the same every time."""

import dataclasses
import types
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench import workloads
from bench.workloads import layers, llama, resnet, text
from bench.workloads.base import Attention

ALL = workloads.available()
TINY_TEXT = {"layers": 2, "dim": 32, "heads": 4, "seq": 12, "batch": 2}
TINY = {
    "gpt-mini": TINY_TEXT,
    "gpt-mini-dropout": TINY_TEXT,
    "gpt2-transformers": TINY_TEXT,
    "llama-mini": {**TINY_TEXT, "ffn": 48},
    "mlp-chain": {"layers": 3, "dim": 8, "batch": 5},
    "resnet-mini": {"batch": 2},
    "vit-mini": {"layers": 2, "dim": 32, "image": 16, "batch": 2},
}
COUNTS = {
    "gpt2-small": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "gpt3-175b": 174_604_259_328,
    "llama3-70b": 70_553_706_496,
    "llama3-8b": 8_030_261_248,
    "resnet50": 25_557_032,
    "vit-b16": 86_567_656,
    "vit-h14": 632_045_800,
    # Korthikanti et al. 2022, by their layers and widths.
    **{
        f"korthikanti-{size}": layers * (12 * dim**2 + 13 * dim) + (51200 + 2048 + 2) * dim
        for size, layers, dim in (
            ("22b", 48, 6144),
            ("175b", 96, 12288),
            ("530b", 105, 20480),
            ("1t", 128, 25600),
        )
    },
}


def tiny(name, **options):
    return workloads.get(name, **{**TINY[name], **options})


def on_meta(workload):
    with torch.device("meta"):
        return workload.build()


def chain(workload, model):
    """The blocks at the workload's paths, in order."""
    return [b for path in workload.blocks.split(",") for b in model.get_submodule(path)]


def saved_storages(forward):
    """Bytes by storage of what autograd keeps during `forward`."""
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    return result, kept


# Finding them.


def test_available_is_sorted_and_complete():
    assert tuple(sorted(ALL)) == ALL
    assert set(TINY) | set(COUNTS) == set(ALL)


def test_every_published_model_has_its_own_parameter_count():
    published = {name for name in ALL if workloads.get(name).scale != "quick"}
    assert published == set(COUNTS)


def test_unknown_name_lists_names_and_suggests():
    with pytest.raises(ValueError, match=r"no workload 'gpt-mni'. Did you mean 'gpt-mini'\?") as e:
        workloads.get("gpt-mni")
    assert all(name in str(e.value) for name in ALL)


def test_name_clash_names_both_modules():
    one, two = types.ModuleType("one"), types.ModuleType("two")
    one.WORKLOADS = two.WORKLOADS = (workloads.get("mlp-chain"),)
    with pytest.raises(ValueError, match="'mlp-chain': in one and two"):
        workloads.collect([one, two])


def test_modules_without_workloads_add_none():
    assert workloads.collect([types.ModuleType("helper")]) == {}


# Options.


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlp-chain", {"seq": 4}, "no option 'seq'; it has layers, batch, dim, seed"),
        ("mlp-chain", {"name": "x"}, "no option 'name'"),
        ("mlp-chain", {"layers": 0}, "layers must be a whole number of at least 1, not 0"),
        ("mlp-chain", {"layers": True}, "layers must be a whole number, not True"),
        ("mlp-chain", {"batch": 2.0}, "batch must be a whole number, not 2.0"),
        ("mlp-chain", {"seed": -1}, "seed must be at least 0, not -1"),
        ("gpt-mini", {"attention": "fast"}, "attention must be one of math, flash, not 'fast'"),
        ("gpt-mini", {"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ("gpt-mini", {"tied": 1}, "tied must be true or false, not 1"),
        ("gpt-mini", {"heads": 3}, "3 heads do not divide dim 256"),
        ("gpt-mini", {"seq": 1025}, "seq 1025 is more than the 1024 positions"),
        ("gpt-mini", {"vocab": 255}, "vocab must be at least 256"),
        ("llama-mini", {"kv_heads": 3}, "3 do not divide 8"),
        ("llama-mini", {"dim": 24}, "even dim / heads, not 24 / 8"),
        ("llama-mini", {"theta": 0.0}, "theta must be finite and above 0"),
        ("vit-mini", {"patch": 7}, "7 does not divide 64 pixels"),
        ("vit-mini", {"heads": 5}, "5 heads do not divide dim 128"),
        ("resnet50", {"layers": 17}, "one of 4, 8, 16, 33, 50, not 17"),
        ("resnet-mini", {"batch": 1, "image": 32}, "need two values"),
    ],
)
def test_impossible_options_say_what_is_wrong(name, options, message):
    with pytest.raises(ValueError, match=message):
        workloads.get(name, **options)


def test_constructor_refuses_what_with_options_refuses():
    with pytest.raises(ValueError, match="do not divide"):
        dataclasses.replace(workloads.get("gpt-mini"), heads=3)


def test_whole_number_will_do_for_a_float():
    assert workloads.get("gpt-mini", dropout=0).dropout == 0


@pytest.mark.parametrize("name", ALL)
def test_options_hold_every_option(name):
    workload = workloads.get(name)
    assert tuple(workload.options()) == workload.option_names()
    assert workload.with_options(**workload.options()) == workload


# Shape.


@pytest.mark.parametrize("name", ALL)
def test_a_model_is_what_its_workload_and_its_publication_say(name):
    """All at once: on the meta device, too, the largest take a second to build."""
    workload = workloads.get(name)
    model = on_meta(workload)
    blocks = chain(workload, model)
    assert len(blocks) == workload.layers
    assert name not in COUNTS or sum(p.numel() for p in model.parameters()) == COUNTS[name]
    if type(model).__module__.startswith("bench.") and "mlp" not in name and "resnet" not in name:
        assert_blocks_have_the_names_that_strategies_look_for(workload, blocks)
    assert all(p.is_meta for p in model.parameters())
    names = {n for n, _ in (*model.named_parameters(), *model.named_buffers())}
    assert model.state_dict().keys() == names, "a state dict must restore a meta model whole"


def assert_blocks_have_the_names_that_strategies_look_for(workload, blocks):
    for block in blocks:
        assert isinstance(block.attn.core, layers.AttentionCore)
        assert isinstance(block.mlp, nn.Module)
        assert block.attn.core.kernel == workload.attention


@pytest.mark.parametrize(("depth", "count"), [(33, 44_549_160), (50, 60_192_808)])
def test_resnet_layers_give_the_published_depths(depth, count):
    model = on_meta(workloads.get("resnet50", layers=depth))
    assert sum(p.numel() for p in model.parameters()) == count
    assert sum(resnet.STAGES[depth]) == depth


@pytest.mark.parametrize("name", TINY)
def test_step_runs_on_fake_tensors(name):
    workload = tiny(name)
    with FakeTensorMode():
        model = workload.model()
        workload.loss(model, workload.make_batch()).backward()
    assert all(p.grad.shape == p.shape for p in model.parameters())


# The same every time.


@pytest.mark.parametrize("name", TINY)
def test_same_fields_give_the_same_bits(name):
    states, batches, losses = [], [], []
    for noise in (1, 2):
        torch.manual_seed(noise)
        model, batch = tiny(name).model(), tiny(name).make_batch()
        states.append([t.clone() for t in model.state_dict().values()])
        batches.append(batch)
        torch.manual_seed(7)  # dropout's
        losses.append(tiny(name).loss(model, batch).detach())
    assert all(map(torch.equal, *states))
    assert all(map(torch.equal, *batches))
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", TINY)
def test_another_seed_gives_other_weights_and_data(name):
    one, two = tiny(name), tiny(name, seed=1)
    pairs = zip(one.model().parameters(), two.model().parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.make_batch()[0], two.make_batch()[0])


def test_building_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    tiny("gpt-mini").model()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_gets_a_finite_gradient(name):
    workload = tiny(name)
    model = workload.model()
    loss = workload.loss(model, workload.make_batch())
    loss.backward()
    assert loss.shape == ()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert all(b.mlp.c_fc.weight.grad.any() for b in chain(workload, model) if name == "vit-mini")


# Data.


def test_tokens_are_the_standard_library_in_order():
    ids = text.tokens(2, 5, seed=3)
    assert ids.shape == (2, 6)
    assert ids.dtype == torch.int64
    assert bytes(ids.flatten().tolist()) in text.corpus()
    assert b"import " in text.corpus()


def test_window_wraps_round_the_end(monkeypatch):
    monkeypatch.setattr(text, "corpus", lambda: b"abc")
    start = text.window(1, 1)
    assert len(text.window(8, 1)) == 8
    assert text.window(8, 1)[:1] == start
    assert text.window(8, 0) == b"abcabcab"


def test_a_python_without_source_files_is_reported(monkeypatch):
    monkeypatch.setattr(text.sys, "stdlib_module_names", frozenset())
    with pytest.raises(FileNotFoundError, match="no standard library source files"):
        text.corpus.__wrapped__()


def test_targets_are_the_next_bytes_and_own_their_storage():
    ids, targets = tiny("gpt-mini").make_batch()
    assert torch.equal(ids[:, 1:], targets[:, :-1])
    assert ids.untyped_storage().nbytes() == ids.nbytes
    assert targets.untyped_storage().nbytes() == targets.nbytes


def test_batch_stays_on_the_cpu_under_another_default_device():
    with torch.device("meta"):
        batch = [t for name in TINY for t in tiny(name).make_batch()]
    assert {t.device.type for t in batch} == {"cpu"}


def test_images_and_labels_are_in_range():
    images, labels = tiny("vit-mini", batch=8).make_batch()
    assert images.shape == (8, 3, 16, 16)
    assert -1 <= images.min() < images.max() <= 1
    assert 0 <= labels.min() < labels.max() < 10


# Cost model.


@pytest.mark.parametrize(("depth", "rows", "dim"), [(1, 7, 8), (5, 3, 16)])
def test_mlp_chain_saves_one_tensor_a_block_to_the_byte(depth, rows, dim):
    workload = workloads.get("mlp-chain", layers=depth, batch=rows, dim=dim)
    model, batch = workload.model(), workload.make_batch()
    given = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *batch)}
    _, kept = saved_storages(lambda: workload.loss(model, batch))
    assert sum(kept[at] for at in kept.keys() - given) == (depth + 1) * rows * dim * 4

    stream = model.stem(batch[0])
    _, kept = saved_storages(lambda: model.blocks(stream))
    assert sum(kept[at] for at in kept.keys() - given) == depth * rows * dim * 4


def test_math_attention_saves_its_weights_and_no_mask():
    q, k, v = torch.randn(3, 2, 2, 8, 4, requires_grad=True).unbind()
    _, kept = saved_storages(lambda: layers.AttentionCore(causal=True)(q, k, v))
    assert max(kept.values()) == 3 * 2 * 2 * 8 * 4 * 4  # q, k and v are one storage
    assert sum(kept.values()) - max(kept.values()) == 2 * 2 * 8 * 8 * 4


# Attention.


@pytest.mark.parametrize("causal", [True, False])
def test_flash_agrees_with_math(causal):
    inputs = torch.randn(3, 2, 4, 16, 8, generator=torch.Generator().manual_seed(0))
    core, results = layers.AttentionCore(causal=causal), {}
    for kernel in ("math", "flash"):
        core.kernel = kernel
        leaf = inputs.clone().requires_grad_()
        out = core(*leaf.unbind())
        out.square().sum().backward()
        results[kernel] = (out.detach(), leaf.grad)
    for ours, flash in zip(*results.values(), strict=True):
        torch.testing.assert_close(ours, flash, rtol=1e-4, atol=1e-5)


def test_kernel_table_has_every_attention_option():
    assert tuple(layers.KERNELS) == get_args(Attention)


def test_unknown_kernel_is_refused_and_the_old_one_kept():
    core = layers.AttentionCore(causal=True)
    with pytest.raises(ValueError, match="kernel must be one of math, flash, not 'fast'"):
        core.kernel = "fast"
    assert core.kernel == "math"
    assert "kernel='math'" in repr(core)


def test_flash_dropout_on_cpu_says_what_to_do():
    workload = tiny("gpt-mini-dropout", attention="flash")
    model, batch = workload.model(), workload.make_batch()
    with pytest.raises(RuntimeError, match=r"no dropout .* use attention='math'"):
        workload.loss(model, batch)
    workload.loss(model.eval(), batch)  # in evaluation there is no dropout to refuse


def test_dropout_draws_anew_each_time_and_not_in_evaluation():
    workload = tiny("gpt-mini-dropout", dropout=0.5)
    model, batch = workload.model(), workload.make_batch()
    assert workload.loss(model, batch) != workload.loss(model, batch)
    assert workload.loss(model.eval(), batch) == workload.loss(model, batch)


@pytest.mark.parametrize("name", ["gpt-mini", "llama-mini"])
def test_a_later_token_does_not_change_earlier_logits(name):
    workload = tiny(name)
    model, (ids, _) = workload.model(), workload.make_batch()
    other = ids.clone()
    other[:, 8:] = (other[:, 8:] + 1) % 256
    before, after = model(ids), model(other)
    assert before.shape == (2, 12, 256)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_tied_head_is_the_embedding():
    tied, free = tiny("gpt-mini", tied=True), tiny("gpt-mini")
    assert tied.model().lm_head is None
    difference = sum(p.numel() for p in free.model().parameters())
    difference -= sum(p.numel() for p in tied.model().parameters())
    assert difference == 256 * 32


def test_residual_branches_start_smaller_with_depth():
    block = workloads.get("gpt-mini", layers=8).model().h[0]
    assert block.mlp.c_fc.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert block.mlp.c_proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.02)


# Llama.


def rotated(x, seq=16):
    """`x` (a vector) turned to every one of `seq` positions: ``[seq, D]``."""
    tables = llama.rope_tables(seq, x.numel(), 10_000.0, like=x)
    return llama.rotate(x.expand(1, 1, seq, -1), tables)[0, 0]


def test_rope_keeps_the_norm():
    x = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotated(x).norm(dim=-1), x.norm().expand(16), rtol=1e-6, atol=0)


def test_rope_products_depend_on_the_distance_alone():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 8, dtype=torch.float64, generator=generator)
    products = rotated(q) @ rotated(k).T
    for distance in range(-15, 16):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(products[0], products[0, :1])


def test_rope_follows_a_narrower_input():
    tables = llama.rope_tables(3, 4, 10_000.0, like=torch.zeros(()))
    assert (
        llama.rotate(torch.ones(1, 1, 3, 4, dtype=torch.bfloat16), tables).dtype == torch.bfloat16
    )


def test_grouped_attention_is_full_attention_with_repeated_heads():
    shape = tiny("llama-mini", kv_heads=2)
    grouped = llama.GroupedAttention(shape)
    full = llama.GroupedAttention(shape.with_options(kv_heads=4))
    state = grouped.state_dict()
    for key in ("k_proj.weight", "v_proj.weight"):
        state[key] = state[key].unflatten(0, (2, 8)).repeat_interleave(2, 0).flatten(0, 1)
    full.load_state_dict(state)
    x = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0))
    rope = llama.rope_tables(6, 8, 10_000.0, like=x)
    torch.testing.assert_close(grouped(x, rope), full(x, rope))


def test_llama_blocks_take_the_tables_by_keyword():
    seen = []
    workload = tiny("llama-mini")
    model = workload.model()
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda m, a, kw: seen.append(kw["rope"]), with_kwargs=True)
    workload.loss(model, workload.make_batch())
    assert len(seen) == 2
    assert seen[0] is seen[1]


# ResNet and ViT.


def test_batch_statistics_update_once_a_step():
    workload = tiny("resnet-mini")
    model = workload.model()
    workload.loss(model, workload.make_batch())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 1 + 4 * 4
    assert all(n.num_batches_tracked == 1 and n.running_mean.any() for n in norms)


def test_resnet_stages_halve_the_image():
    model = tiny("resnet-mini").model()
    x = torch.zeros(2, 8, 16, 16)
    shapes = [(x := stage(x)).shape for stage in (model.layer1, model.layer2, model.layer3)]
    assert [tuple(s) for s in shapes] == [(2, 32, 16, 16), (2, 64, 8, 8), (2, 128, 4, 4)]


def test_vit_attends_in_both_directions():
    workload = tiny("vit-mini")
    model, (images, _) = workload.model(), workload.make_batch()
    assert workload.seq == 5
    changed = images.clone()
    changed[..., -8:, -8:] += 1  # the last patch; the class token is the first
    assert model(images).shape == (2, 10)
    assert not torch.allclose(model(images), model(changed))


def test_loss_is_cross_entropy_of_the_logits():
    workload = tiny("gpt-mini")
    model, (ids, targets) = workload.model(), workload.make_batch()
    logits = model(ids)
    by_hand = -F.log_softmax(logits, -1).gather(-1, targets[..., None]).mean()
    torch.testing.assert_close(workload.loss(model, (ids, targets)), by_hand)
