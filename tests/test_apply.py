"""``apply`` and ``undo``: what the handle says, what is refused, what selective and flash touch."""

import copy
import sys
import types

import pytest
import torch
from models import (
    BLOCKS,
    CASES,
    Attention,
    Block,
    Gpt,
    Loop,
    Mlp,
    assert_same,
    distance,
    step,
)
from torch import nn

import strategies
from strategies import Applied, Unsupported, flash_checkpoint, selective
from strategies.contract.layered import Layered
from strategies.execution import attention_core, layout
from strategies.execution.checkpoint import CheckpointedForward
from strategies.schedules import plan as plans


class Holder(nn.Module):
    """Blocks by name."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)


# The handle.


def test_a_handle_says_what_was_done():
    model = CASES["resnet"].model()
    applied = strategies.apply(model, "every_k", k=2)
    assert isinstance(applied, Applied)
    assert applied.model is model
    assert applied.strategy == strategies.get("every_k(k=2)")
    assert applied.chain.paths == ("layer1", "layer2", "layer3")
    assert plans.render(applied.plan) == "[0 1] [2] [3] [4 5] [6 7]"  # cut at 3 and 6
    assert applied.storage is None
    assert applied.attention_kernel is None
    assert list(applied.notes) == []


def test_none_touches_nothing():
    model = CASES["gpt"].model()
    before = [dict(vars(module)) for module in model.modules()]
    applied = strategies.apply(model, "none")
    assert applied.undos == list(applied.notes) == []
    assert applied.storage is None
    vars(model).pop("ckpt_applied")
    assert [dict(vars(module)) for module in model.modules()] == before


def test_a_strategy_may_be_an_object():
    strategy = strategies.get("every_k(k=3)")
    assert strategies.apply(Loop(), strategy).strategy is strategy
    assert strategies.apply(Loop(), strategy, k=2).strategy == strategies.get("every_k(k=2)")


@pytest.mark.parametrize(("k", "notes"), [(BLOCKS, []), (BLOCKS + 1, [f"k={BLOCKS + 1} exceeds"])])
def test_a_group_longer_than_the_chain_is_noted(k, notes):
    applied = strategies.apply(Loop(), f"every_k(k={k})")
    assert applied.plan == (tuple(range(BLOCKS)),)
    assert [note[: len(wanted)] for note, wanted in zip(applied.notes, notes, strict=True)] == notes
    with strategies.apply(Loop(), f"offload(over=every_k(k={k}))") as applied:
        assert len(applied.notes) == len(notes)


@pytest.mark.parametrize("over", ["none", "selective", "sqrt"])
def test_storage_without_boundaries_is_noted(over):
    applied = strategies.apply(CASES["core"].model(), f"compressed(codec=int8, over={over})")
    noted = [note for note in applied.notes if "nothing rests as int8 on device" in note]
    assert bool(noted) == (over != "sqrt")


def test_a_second_strategy_is_refused_also_around_the_first():
    model = Holder(inner=CASES["gpt"].model())
    strategies.apply(model.inner, "sqrt")
    for target in (model, model.inner):
        with pytest.raises(ValueError, match=r"under sqrt already; call strategies\.undo"):
            strategies.apply(target, "every_layer")
    strategies.undo(model.inner)
    strategies.apply(model, "every_layer")
    with pytest.raises(ValueError, match="under every_layer already"):
        strategies.apply(model, "sqrt")


def test_undo_then_another_strategy():
    case = CASES["loop"]
    model, wanted = case.model(), step(case.model(), case.input())
    for spec in ("sqrt", "every_layer", "offload", "none", "every_k(k=3)"):
        strategies.apply(model, spec)
        assert_same(step(model, case.input()), wanted)
        strategies.undo(model)


def test_a_failed_install_leaves_the_model_as_it_was(monkeypatch):
    model = CASES["core"].model()
    before = [(type(m), dict(vars(m))) for m in model.modules()]

    def fail(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(layout, "install", fail)
    for spec in ("sqrt", "selective", "flash_checkpoint"):
        with pytest.raises(RuntimeError, match="no"):
            strategies.apply(model, spec)
        assert [(type(m), dict(vars(m))) for m in model.modules()] == before


def test_train_and_eval_keep_their_meaning():
    case = CASES["loop"]
    model, reference = case.model(), case.model()
    strategies.apply(model, "every_k(k=2)")
    assert model.eval() is model
    assert not any(module.training for module in model.modules())
    outputs = [m.eval()(case.input()) for m in (model, reference)]
    assert torch.equal(*outputs)
    model.train()
    assert all(module.training for module in model.modules())
    assert_same(step(model, case.input()), step(reference.train(), case.input()))


def test_a_copy_of_a_copy_can_be_undone_alone():
    model = CASES["loop"].model()
    strategies.apply(model, "every_k(k=2)")
    copied = copy.deepcopy(copy.deepcopy(model))
    strategies.undo(copied)
    assert not any("forward" in vars(block) for block in copied.h)
    assert "forward" in vars(model.h[0])
    with pytest.raises(ValueError, match="under no strategy"):
        strategies.undo(copied)


def test_parameters_may_move_and_change_meanwhile():
    case = CASES["loop"]
    model, reference = case.model(), case.model()
    strategies.apply(model, "every_k(k=2)")
    results = []
    for each in (model, reference):
        each.double()
        step(each, case.input().double())
        torch.optim.SGD(each.parameters(), lr=0.1).step()
        results.append(step(each, case.input().double()))
    assert_same(*results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("spec", ["every_k(k=2)", "offload", "compressed(codec=int8)"])
def test_other_dtypes(spec, dtype):
    case = CASES["loop"]
    results = []
    for chosen in (spec, "none"):
        model = case.model().to(dtype)
        strategies.apply(model, chosen)
        results.append(step(model, case.input().to(dtype)))
    if strategies.get(spec).exact:
        assert_same(*results)
    else:
        assert distance(*results) < 0.05


def test_models_without_parameters_have_no_chain():
    with pytest.raises(Unsupported, match="no chain of blocks"):
        strategies.apply(nn.Sequential(nn.ReLU(), nn.ReLU()), "every_layer")


# Key-value caches of transformers models.


class Cached(Loop):
    """Asks its configurations for caches, as models of the transformers library do."""

    def __init__(self):
        super().__init__()
        self.config = self.h[0].config = types.SimpleNamespace(use_cache=True)
        self.h[1].config = types.SimpleNamespace(use_cache=False)
        self.h[2].config = types.SimpleNamespace(use_cache=True)
        self.h[3].config = types.SimpleNamespace()

    def forward(self, x):
        self.asked = [block.config.use_cache for block in self.h[:3]]
        return super().forward(x)


def test_caches_are_off_while_a_strategy_recomputes():
    model, x = Cached(), CASES["loop"].input()
    kept = [copy.copy(vars(block.config)) for block in model.h[:4]]
    with strategies.apply(model, "every_layer"):
        for each in (model, copy.deepcopy(model)):
            each(x).sum().backward()
            assert each.asked == [False, False, False]
            assert [vars(block.config) for block in each.h[:4]] == kept
            with torch.no_grad():
                each(x)
            assert each.asked == [True, False, True]
    model(x)
    assert model.asked == [True, False, True]
    assert "forward" not in vars(model)


def test_caches_are_on_again_after_a_failure():
    model = Cached()
    with strategies.apply(model, "every_layer"), pytest.raises(RuntimeError, match="shapes"):
        model(torch.ones(2, 3))
    assert model.config.use_cache is True


def test_without_recomputation_caches_stay():
    model = Cached()
    with strategies.apply(model, "none"):
        model(CASES["loop"].input())
        assert model.asked == [True, False, True]


# Selective.


def test_the_textbook_checkpoints_attention_and_ffn(checkpoints):
    case = CASES["gpt"]
    model = case.model()
    applied = strategies.apply(model, "selective")
    assert applied.plan == plans.plain(BLOCKS)
    wrapped = [name for name, m in model.named_modules() if name and "forward" in vars(m)]
    assert wrapped == [f"h.{i}.{part}" for i in range(BLOCKS) for part in ("attn", "mlp")]
    model(case.input())
    assert len(checkpoints) == 2 * BLOCKS


@pytest.mark.parametrize("name", ["gpt", "core"])
def test_the_core_alone(name, checkpoints):
    case = CASES[name]
    model = case.model()
    strategies.apply(model, "selective(variant=attention_core)")
    wrapped = [n for n, m in model.named_modules() if n and "forward" in vars(m)]
    part = "attn.core" if name == "core" else "attn"
    assert wrapped == [f"h.{i}.{part}" for i in range(BLOCKS)]
    model(case.input())
    assert len(checkpoints) == BLOCKS  # sdpa itself, not the attention module around it


@pytest.mark.parametrize(
    ("variant", "name", "cls", "found"),
    [
        *[("textbook", name, nn.Linear, True) for name in ("attn", "attention", "self_attn")],
        *[("textbook", name, nn.Linear, True) for name in ("self_attention", "attn1", "attn_2")],
        *[("textbook", name, nn.Linear, True) for name in ("mlp", "ffn", "ff", "feed_forward")],
        *[("textbook", name, nn.Linear, True) for name in ("feedforward", "mlp_1")],
        *[("textbook", name, nn.Linear, False) for name in ("attn_norm", "norm_mlp", "affine")],
        *[("textbook", name, nn.Linear, False) for name in ("attn_dropout", "pattn", "mlps")],
        ("textbook", "x", Attention, True),
        ("textbook", "x", Mlp, True),
        ("textbook", "x", type("LlamaMLP", (nn.Linear,), {}), True),
        ("textbook", "x", type("T5FeedForward", (nn.Linear,), {}), True),
        ("textbook", "x", type("AttentionNorm", (nn.Linear,), {}), False),
        ("textbook", "core", nn.Linear, False),
        *[("attention_core", n, nn.Linear, True) for n in ("core", "attention_core", "attn")],
        ("attention_core", "x", type("CoreAttention", (nn.Linear,), {}), True),
        ("attention_core", "x", type("DotProductAttention", (nn.Linear,), {}), True),
        *[("attention_core", n, nn.Linear, False) for n in ("mlp", "score", "encore")],
    ],
)
def test_which_modules_are_found(variant, name, cls, found):
    def part():
        return cls() if cls in (Attention, Mlp) else cls(4, 4)

    chain = nn.ModuleList([Holder(**{name: part(), "other": nn.Linear(4, 4)}) for _ in range(2)])
    model = Holder(h=chain)
    if found:
        strategies.apply(model, f"selective(variant={variant})")
        assert all("forward" in vars(getattr(block, name)) for block in chain)
        assert not any("forward" in vars(block.other) for block in chain)
    else:
        with pytest.raises(Unsupported, match=rf"selective\(variant={variant}\): no attention"):
            strategies.apply(model, "selective", variant=variant)
        assert not any("forward" in vars(m) or "ckpt_applied" in vars(m) for m in model.modules())


def test_only_the_outermost_is_checkpointed_and_each_once():
    shared = Attention()
    blocks = [Holder(attn=Holder(attention=nn.Linear(4, 4)), mlp=shared) for _ in range(3)]
    model = Holder(h=nn.ModuleList(blocks))
    applied = strategies.apply(model, "selective")
    assert len(applied.undos) == 3 + 1 + 1  # and what watches whether they run
    assert "forward" not in vars(blocks[0].attn.attention)
    assert isinstance(shared.forward, CheckpointedForward)
    assert not isinstance(shared.forward.original, CheckpointedForward)


def test_blocks_that_are_named_are_those_that_are_searched():
    model = Holder(
        large=nn.ModuleList([nn.Linear(99, 99), nn.Linear(99, 99)]),
        small=nn.ModuleList([Block(), Block()]),
    )
    applied = strategies.apply(model, "selective", blocks="small")
    assert len(applied.undos) == 4 + 1
    strategies.undo(model)
    with pytest.raises(Unsupported, match="no attention or FFN sub-module"):
        strategies.apply(model, "selective", blocks="large")


def test_patterns_do_not_overlap():
    for name in ("attn", "attention", "self_attn", "core", "mlp", "ffn"):
        hits = [
            bool(p.search(name))
            for p in (attention_core.ATTENTION, selective._FFN, attention_core._CORE)
        ]
        assert sum(hits) == 1


# Flash.


@pytest.mark.parametrize("over", ["every_layer", "none", "sqrt", "selective", "offload"])
def test_flash_switches_every_core_and_back(over):
    case = CASES["core"]
    model = case.model()
    wanted = step(case.model(), case.input())
    model.h[2].attn.core.kernel = "flash"
    with strategies.apply(model, f"flash_checkpoint(over={over})") as applied:
        assert applied.attention_kernel == "sdpa-flash"
        assert applied.plan == strategies.get(over).plan(applied.chain)
        assert ("forward" in vars(model.h[0].attn)) == (over == "selective")
        assert [block.attn.core.kernel for block in applied.chain.blocks] == ["flash"] * BLOCKS
        found = step(model, case.input())
        assert 0 < distance(found, wanted) < 1e-5
    kernels = [block.attn.core.kernel for block in model.h]
    assert kernels == ["math", "math", "flash", "math", "math"]


def test_flash_without_attention_that_can_be_switched():
    with pytest.raises(Unsupported, match="no module has a `kernel` attribute"):
        strategies.apply(CASES["gpt"].model(), "flash_checkpoint")


@pytest.mark.parametrize("layer", ["offload", "compressed"])
def test_layers_above_cannot_what_flash_cannot(layer):
    with pytest.raises(Unsupported, match="no module has a `kernel` attribute"):
        strategies.apply(CASES["gpt"].model(), f"{layer}(over=flash_checkpoint)")
    model = CASES["core"].model()
    with strategies.apply(model, f"{layer}(over=flash_checkpoint)") as applied:
        assert applied.attention_kernel == "sdpa-flash"
        assert model.h[0].attn.core.kernel == "flash"


def test_flash_has_no_dropout_on_a_cpu():
    model = CASES["core"].model()
    model.h[1].attn.core.dropout = 0.1
    with pytest.raises(Unsupported, match="CPU flash kernel has no attention dropout"):
        strategies.apply(model, "flash_checkpoint")
    model.eval()
    strategies.apply(model, "flash_checkpoint")


def test_flash_passes_on_what_is_below():
    model = CASES["core"].model()
    spec = "flash_checkpoint(over=offload(tier=host))"
    with pytest.raises(Unsupported, match="in host memory already"):
        strategies.apply(model, spec)
    assert all(block.attn.core.kernel == "math" for block in model.h)
    below = strategies.get("flash_checkpoint(over=every_k(k=99))")
    assert isinstance(below, Layered)
    assert "exceeds" in strategies.apply(model, below).notes[0]


def test_a_model_that_switches_its_own_implementation():
    class Switching(Gpt):
        def __init__(self):
            super().__init__()
            self.config = types.SimpleNamespace(_attn_implementation="eager")

        def set_attn_implementation(self, name):
            self.config._attn_implementation = name

    model = Switching()
    with strategies.apply(model, "flash_checkpoint"):
        assert model.config._attn_implementation == "sdpa"
        copied = copy.deepcopy(model)
    assert model.config._attn_implementation == "eager"
    assert strategies.undo(copied).config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("device", "dtype", "installed", "kernel"),
    [
        ("cpu", torch.bfloat16, True, "sdpa-flash"),
        ("cuda", torch.bfloat16, True, "flash-attn"),
        ("cuda", torch.float16, True, "flash-attn"),
        ("cuda", torch.bfloat16, False, "sdpa-flash"),
        ("cuda", torch.float32, True, "sdpa-efficient"),
    ],
)
def test_the_kernel_that_is_chosen(device, dtype, installed, kernel, monkeypatch):
    found = object() if installed else None
    monkeypatch.setattr(flash_checkpoint.importlib.util, "find_spec", lambda _: found)
    assert flash_checkpoint.choose_kernel(torch.device(device), dtype) == kernel


class Queries(nn.Module):
    """Attends in one of many ways."""

    def __init__(self, **options):
        super().__init__()
        self.config = types.SimpleNamespace(_attn_implementation="eager")
        self.h = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.options = {
            "positional": (),
            "named": {},
            "dtype": torch.bfloat16,
            "keys": 6,
            **options,
        }

    def set_attn_implementation(self, name):
        self.config._attn_implementation = name

    def forward(self, x):
        x = self.h[1](self.h[0](x)).to(self.options["dtype"])
        keys = x[..., : self.options["keys"], :]
        return nn.functional.scaled_dot_product_attention(
            x, keys, keys, *self.options["positional"], **self.options["named"]
        )


MASK = torch.ones(6, 6, dtype=torch.bool).tril()


@pytest.mark.parametrize(
    ("options", "called"),
    [
        ({}, [(0.0, None, False)]),
        ({"named": {"is_causal": True}}, [(0.0, None, True)]),
        ({"named": {"is_causal": True, "scale": 0.3}}, [(0.0, 0.3, True)]),
        ({"positional": (None, 0.0, True)}, [(0.0, None, True)]),
        ({"keys": 3}, [(0.0, None, False)]),
        ({"keys": 3, "named": {"is_causal": True}}, []),
        ({"named": {"attn_mask": MASK}}, []),
        ({"positional": (MASK,)}, []),
        ({"dtype": torch.float32}, []),
    ],
)
def test_what_the_flash_attn_package_is_given(options, called, monkeypatch):
    """With a stand-in for the package, which needs a GPU."""
    calls = []

    def flash_attn_func(q, k, v, *, dropout_p, softmax_scale, causal):
        calls.append((dropout_p, softmax_scale, causal))
        assert q.shape == (2, 6, 3, 4)  # batch, tokens, heads, width
        heads = (t.transpose(1, 2) for t in (q, k, v))
        return nn.functional.scaled_dot_product_attention(
            *heads, dropout_p=dropout_p, scale=softmax_scale, is_causal=causal
        ).transpose(1, 2)

    package = types.SimpleNamespace(flash_attn_func=flash_attn_func)
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr(flash_checkpoint, "choose_kernel", lambda *_: "flash-attn")
    torch.manual_seed(0)
    model, data = Queries(**options), torch.randn(2, 3, 6, 4)
    wanted = step(model, data)
    with strategies.apply(model, "flash_checkpoint(over=none)") as applied:
        assert applied.attention_kernel == "flash-attn"
        assert model.config._attn_implementation == "sdpa"
        found = step(model, data)
        assert distance(found, wanted) < 1e-2
        torch.testing.assert_close(found.outputs, wanted.outputs)
    assert calls == called
    assert "forward" not in vars(model)
    assert model.config._attn_implementation == "eager"
