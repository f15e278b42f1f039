"""Models of the transformers library, from tiny configurations, with dropout."""

import copy
import weakref

import pytest
import torch
from effort import few
from models import assert_same, distance, seed, step
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import strategies
from bench.workloads.sources.unpacked import unpacked
from strategies import Unsupported, find_chain
from strategies.contract.registry import classes

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:transformers", "ignore::FutureWarning:transformers"
)

LAYERS, VOCABULARY = 4, 19
TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_hidden_layers": LAYERS,
}
MODELS = {
    "gpt2": (
        "transformer.h",
        lambda **o: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_embd=16, n_layer=LAYERS, n_head=2, **TOKENS, **o)
        ),
    ),
    "llama": (
        "model.layers",
        lambda **o: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                num_key_value_heads=1, attention_dropout=0.1, **SIZES, **TOKENS, **o
            )
        ),
    ),
    "gpt-neox": (
        "gpt_neox.layers",
        lambda **o: transformers.GPTNeoXForCausalLM(
            transformers.GPTNeoXConfig(
                attention_dropout=0.1, hidden_dropout=0.1, **SIZES, **TOKENS, **o
            )
        ),
    ),
    "vit": (
        "layers",
        lambda **o: transformers.ViTForImageClassification(
            transformers.ViTConfig(
                image_size=8, patch_size=4, hidden_dropout_prob=0.1,
                attention_probs_dropout_prob=0.1, **SIZES, **o,
            )
        ),
    ),
}  # fmt: skip
EXACT = [s.spec() for c in classes().values() for s in c.grid() if s.exact and not s.needs_profile]
LOSSY = [
    s.spec()
    for c in classes().values()
    for s in c.grid()
    if not s.exact and not s.compiled and s.name() != "flash_checkpoint"
]


class Task(nn.Module):
    """A model with its loss, as a function of one tensor."""

    def __init__(self, model, **options):
        super().__init__()
        self.model, self.options = model, options

    def forward(self, data):
        if data.is_floating_point():
            output = self.model(pixel_values=data, labels=torch.tensor([0, 1]), **self.options)
        else:
            output = self.model(input_ids=data, labels=data, **self.options)
        return output.loss, output.logits


def make(name, attention, **options):
    seed(0)
    return Task(MODELS[name][1](attn_implementation=attention).train(), **options)


def data(name):
    seed(1)
    return torch.randn(2, 3, 8, 8) if name == "vit" else torch.randint(VOCABULARY, (2, 7))


def without_cache(name):
    return {} if name == "vit" else {"use_cache": False}


@pytest.mark.parametrize("name", MODELS)
def test_discovery(name):
    model = MODELS[name][1]()
    chain = find_chain(model)
    assert len(chain) == LAYERS
    assert len(chain.paths) == 1
    assert chain.paths[0].endswith(MODELS[name][0])
    assert find_chain(model, chain.paths[0]) == chain


@pytest.mark.parametrize("name", MODELS)
def test_attention_and_ffn_of_every_block_are_found(name):
    model = MODELS[name][1]()
    chain = strategies.apply(model, "selective").chain
    for block in chain.blocks:
        wrapped = [key for key, module in block.named_modules() if "forward" in vars(module)]
        assert len(wrapped) == 2
        assert "attention" in wrapped[0] or "attn" in wrapped[0]
        assert "mlp" in wrapped[1]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MODELS)
def test_exact_strategies(name, attention):
    wanted = step(make(name, attention, **without_cache(name)), data(name))
    model = make(name, attention, **without_cache(name))
    for spec in EXACT:
        with strategies.apply(model, spec):
            assert_same(step(model, data(name)), wanted)
    assert_same(step(model, data(name)), wanted)


@pytest.mark.parametrize("budget", few(["94%", "100%"]))
@pytest.mark.parametrize("attention", few(["sdpa", "eager"]))
@pytest.mark.parametrize("name", few(MODELS, 2))
def test_budgets(name, attention, budget):
    """Caches are off while the blocks are watched; a model without room for a plan says so."""
    model = make(name, attention)
    wanted = step(make(name, attention, **without_cache(name)), data(name))
    try:
        applied = strategies.apply(model, "auto", budget=budget, example=data(name))
    except Unsupported as error:
        assert budget != "100%"
        assert "the smallest budget that does is" in str(error)  # noqa: PT017
        return
    with applied:
        assert_same(step(model, data(name)), wanted)


@pytest.mark.parametrize("name", MODELS)
def test_lossy_strategies(name):
    wanted = step(make(name, "sdpa", **without_cache(name)), data(name))
    model = make(name, "sdpa", **without_cache(name))
    close = {"fp16": 1e-2, "bf16": 3e-2, "int8": 0.1}
    for spec in LOSSY:
        with strategies.apply(model, spec) as applied:
            found = step(model, data(name))
        assert torch.equal(found.loss, wanted.loss)
        assert distance(found, wanted) < close.get(applied.strategy.params().get("codec"), 2.0)


@pytest.mark.long
def test_a_compiler():
    """Attention without dropout draws no random numbers, although its operator is tagged so."""
    model = make("llama", "sdpa").eval()
    wanted = step(model, data("llama"))
    with strategies.apply(model, "memory_budget(fraction=0.2, backend=aot_eager_decomp_partition)"):
        assert distance(step(model, data("llama")), wanted) < 1e-6
    assert model.model.config.use_cache


@pytest.mark.parametrize("name", [name for name in MODELS if name != "vit"])
def test_a_mask_for_padding(name):
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[0, 4:] = 0
    model = make(name, "sdpa", use_cache=False, attention_mask=mask)
    wanted = step(model, data(name))
    for spec in ("every_layer", "every_k(k=2)", "sqrt", "selective", "offload(over=sqrt)"):
        with strategies.apply(model, spec):
            assert_same(step(model, data(name)), wanted)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "vit"])
def test_a_model_that_would_fill_a_cache_fills_none(name, attention):
    model = make(name, attention)
    assert model.model.config.use_cache is True
    wanted = step(make(name, attention, use_cache=False), data(name))
    for spec in ("every_layer", "every_k(k=2)", "selective"):
        with strategies.apply(model, spec):
            assert model.model(input_ids=data(name)).past_key_values is None
            assert_same(step(model, data(name)), wanted)
    assert model.model.config.use_cache is True
    assert model.model(input_ids=data(name)).past_key_values is not None


def test_generation_is_what_it_was():
    model = make("gpt2", "sdpa").model.eval()
    options = {"max_new_tokens": 5, "do_sample": False}
    wanted = model.generate(data("gpt2"), **options)
    for spec in ("every_layer", "every_k(k=2)", "selective(variant=attention_core)"):
        with strategies.apply(model, spec):
            assert torch.equal(model.generate(data("gpt2"), **options), wanted)


def test_hidden_states_of_all_layers_are_those_of_the_layers():
    model = make("llama", "eager", use_cache=False).model
    outputs = []
    for spec in ("none", "every_k(k=2)"):
        with strategies.apply(model, spec):
            seed(2)
            outputs.append(model(data("llama"), output_hidden_states=True).hidden_states)
    assert len(outputs[0]) == LAYERS + 1
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one, other)


def test_flash_is_close_and_undone():
    config = transformers.LlamaConfig(num_key_value_heads=1, **SIZES, **TOKENS)
    seed(0)
    model = Task(
        transformers.LlamaForCausalLM._from_config(config, attn_implementation="eager"),
        use_cache=False,
    )
    wanted = step(model, data("llama"))
    inner = model.model
    assert inner.config._attn_implementation == "eager"
    with strategies.apply(inner, "flash_checkpoint(over=every_k(k=2))") as applied:
        assert inner.config._attn_implementation == "sdpa"
        assert applied.attention_kernel == "sdpa-flash"
        copied = copy.deepcopy(model)
        found = step(model, data("llama"))
        assert 0 < distance(found, wanted) < 1e-4
        assert_same(step(copied, data("llama")), found)
    assert inner.config._attn_implementation == "eager"
    assert_same(step(model, data("llama")), wanted)
    strategies.undo(copied.model)
    assert_same(step(copied, data("llama")), wanted)


def test_positions_that_a_simulated_model_asks_about_are_not_kept():
    """They are freed when they are in a real step: 8 bytes a position were too many."""
    masks = transformers.masking_utils
    with FakeTensorMode(), unpacked(torch.ones(1, 8)):
        positions = torch.arange(8)[None]
        kept = weakref.ref(positions)
        assert masks.find_packed_sequence_indices(positions) is None
        del positions
        assert kept() is None
