"""The core of attention recomputed, however the attention is written; and nothing else is."""

import copy
import functools

import pytest
import torch
from models import HEADS, TOKENS, WIDTH, assert_same, seed, step
from torch import nn

import strategies
from strategies import Unsupported
from strategies.execution import attention_core
from strategies.profiling.ledger import Ledger

SPEC = "selective(variant=attention_core)"


def mask_for(x):
    """Causal."""
    return torch.zeros(x.shape[1], x.shape[1]).masked_fill(
        torch.ones(x.shape[1], x.shape[1]).triu(1) > 0, -1e9
    )


class Weighing(nn.Module):
    """PyTorch's attention, which may be asked for its weights."""

    def __init__(self, *, weights, dropout=0.1, **options):
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, dropout, batch_first=True, **options)
        self.weights = weights

    def forward(self, x, memory=None):
        memory = x if memory is None else memory
        mixed, weights = self.attn(
            x, memory, memory, need_weights=self.weights, attn_mask=mask_for(x)
        )
        return x + mixed if weights is None else x + mixed * weights.mean()


class Written(nn.Module):
    """Attention that is written out, in another way each time."""

    def __init__(self, way="plain", dropout=0.1):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.drop, self.way = nn.Dropout(dropout), way

    def forward(self, x):
        q, k, v = (
            part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        if self.way == "in place":
            q *= 0.5  # what was to be kept
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) if self.way == "einsum" else q @ k.mT
        weights = self.drop((scores + mask_for(x)).softmax(-1))
        mixed = self.out((weights @ v).transpose(1, 2).flatten(2))
        return mixed.sigmoid_() if self.way == "output in place" else mixed


class Holding(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(WIDTH), Written(**options)

    def forward(self, x):
        return x + self.attn(self.norm(x))


class Stack(nn.Module):
    def __init__(self, block, blocks=3):
        super().__init__()
        seed(0)
        self.blocks = nn.ModuleList(block() for _ in range(blocks))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Decoder(Stack):
    def forward(self, x):
        memory = x.flip(1)
        for block in self.blocks:
            x = block(x, memory)
        return x


def layer(cls, **options):
    return functools.partial(cls, WIDTH, HEADS, 2 * WIDTH, batch_first=True, **options)


BUILDS = {
    "encoder": lambda: Stack(layer(nn.TransformerEncoderLayer)),
    "encoder-norm-first": lambda: Stack(layer(nn.TransformerEncoderLayer, norm_first=True)),
    "no-dropout": lambda: Stack(layer(nn.TransformerEncoderLayer, dropout=0.0)),
    "decoder": lambda: Decoder(layer(nn.TransformerDecoderLayer)),
    "weights": lambda: Stack(functools.partial(Weighing, weights=True)),
    "no-weights": lambda: Stack(functools.partial(Weighing, weights=False)),
    "other-keys": lambda: Decoder(functools.partial(Weighing, weights=True, add_bias_kv=False)),
    **{
        way: lambda way=way: Stack(functools.partial(Holding, way=way))
        for way in ("plain", "in place", "output in place", "einsum")
    },
}


def data():
    seed(1)
    return torch.randn(2, TOKENS, WIDTH)


@pytest.mark.parametrize("name", BUILDS)
def test_gradients_are_those_of_no_strategy(name):
    model, plain = BUILDS[name](), BUILDS[name]()
    with strategies.apply(model, SPEC):
        for _ in range(2):  # the first step may find out how attention is written
            assert_same(step(model, data()), step(plain, data()))
        assert_same(step(copy.deepcopy(model), data()), step(plain, data()))
        assert_same(step(model, data(), backwards=2), step(plain, data(), backwards=2))
    assert_same(step(model, data()), step(plain, data()))


@pytest.mark.parametrize("name", ["encoder", "weights", "plain"])
def test_gradients_can_be_differentiated(name):
    gradients = []
    for spec in (SPEC, "none"):
        model = BUILDS[name]()
        strategies.apply(model, spec)
        for _ in range(2):
            seed(2)
            first = torch.autograd.grad(
                model(data()).square().mean(), list(model.parameters()), create_graph=True
            )
            second = sum(gradient.square().sum() for gradient in first)
            gradients.append(torch.autograd.grad(second, list(model.parameters())))
    for others in gradients[1:]:
        assert all(map(torch.equal, gradients[0], others))


def saved_bytes(model, long):
    ledger = Ledger()
    model(long)  # finds out how attention is written
    before_bytes = ledger.adopt([*model.parameters(), long])
    with ledger:
        output = model(long)
    return ledger.alive_bytes - before_bytes - output.nbytes


@pytest.mark.parametrize("name", ["encoder", "weights", "plain"])
def test_scores_and_weights_are_not_kept_and_projections_are(name):
    tokens = 256
    seed(1)
    long = torch.randn(1, tokens, WIDTH)
    sizes = []
    for spec in (SPEC, "none"):
        model = BUILDS[name]()
        with strategies.apply(model, spec):
            sizes.append(saved_bytes(model, long))
    square_bytes = 3 * HEADS * tokens * tokens * 4  # one matrix of weights in each block
    assert sizes[1] - sizes[0] > 2 * square_bytes  # with and without dropout, and its mask
    assert sizes[0] < 2 * square_bytes


@pytest.mark.parametrize("name", ["weights", "plain"])
def test_no_projection_runs_again(name):
    model = BUILDS[name]()
    strategies.apply(model, SPEC)
    step(model, data())
    loss = model(data()).sum()
    calls = []

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if torch.is_grad_enabled() and func.overloadpacket.__name__ in ("addmm", "mm", "bmm"):
                calls.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Counting():
        loss.backward()
    assert set(calls) <= {"bmm"}
    assert len(calls) <= 3  # the scores of each block


def test_tied_weights_under_autocast():
    def build():
        model = BUILDS["weights"]()
        model.blocks[2].attn.in_proj_weight = model.blocks[0].attn.in_proj_weight
        return model

    model, plain = build(), build()
    strategies.apply(model, SPEC)
    steps = [step(each, data(), autocast=True) for each in (model, plain)]
    assert_same(*steps)


class Fourier(nn.Module):
    """Called attention; has no softmax."""

    def __init__(self):
        super().__init__()
        self.attention, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.out(self.attention(x))


def test_what_has_no_core_is_refused_with_a_remedy():
    model = Stack(Fourier)
    strategies.apply(model, SPEC)
    with pytest.raises(Unsupported, match=r"no core to recompute; use selective\(variant=textbook"):
        model(data())


class Outer(nn.Module):
    """As BERT: attention proper, a projection and a norm are «attention» together."""

    def __init__(self):
        super().__init__()
        self.self = Written()
        self.dense, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x):
        return self.norm(x + self.dense(self.self(x)))


class Attention(Written):
    pass


def test_of_attention_in_attention_the_inner_is_meant():
    def build():
        outer = Outer()
        outer.self = Attention()
        block = nn.Module()
        block.attention = outer
        block.forward = outer.forward
        return block

    model = nn.ModuleList([build(), build()])
    applied = strategies.apply(nn.ModuleDict({"h": model}), SPEC)
    for block in applied.chain.blocks:
        assert isinstance(block.attention.self.forward, attention_core._WithCheckpointedCore)
        assert "forward" not in vars(block.attention)


def test_a_compiled_model():
    torch._dynamo.reset()
    model, plain = BUILDS["no-dropout"](), BUILDS["no-dropout"]()
    strategies.apply(model, SPEC)
    run = [torch.compile(each, backend="aot_eager", fullgraph=True) for each in (model, plain)]
    for each in run:
        each(data()).sum().backward()
    pairs = zip(model.parameters(), plain.parameters(), strict=True)
    assert all(torch.allclose(one.grad, other.grad, atol=1e-6) for one, other in pairs)


def test_eager_attention_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=2 * WIDTH,
        vocab_size=11,
        attn_implementation="eager",
    )
    seed(0)
    model = transformers.BertModel(config).train()
    plain, tokens = copy.deepcopy(model), torch.arange(2 * TOKENS).view(2, TOKENS) % 11
    with strategies.apply(model, SPEC):
        for _ in range(2):
            found, wanted = (gradients_of(each, tokens) for each in (model, plain))
            assert all(map(torch.equal, found, wanted))


def gradients_of(model, tokens):
    seed(2)
    model.zero_grad()
    model(tokens).last_hidden_state.square().sum().backward()
    return [p.grad for p in model.parameters() if p.grad is not None]
