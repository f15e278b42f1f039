"""Small models, each with one trait to cope with, and what a training step of one leaves behind."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from strategies.execution import checkpoint as checkpoint_module
from strategies.schedules import plan as plans

WIDTH, HEADS, TOKENS, VOCABULARY, BLOCKS = 16, 2, 6, 11, 5


def seed(number: int) -> None:
    """Of the CPU alone: `torch.manual_seed` also writes a stack trace for each other device."""
    torch.default_generator.manual_seed(number)


class Core(nn.Module):
    """Attention between the projections, with a kernel that can be switched."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = "math"

    def forward(self, q, k, v):
        if self.kernel == "flash":
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        blocked = torch.full(scores.shape[-2:], float("-inf")).triu(1)
        return (scores + blocked).softmax(-1) @ v


class Attention(nn.Module):
    """Self-attention over ``scaled_dot_product_attention``, or over a `Core`."""

    def __init__(self, *, core: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.dropout = dropout
        if core:
            self.core = Core()

    def forward(self, x, mask=None, rope=None):
        heads = self.qkv(x).view(*x.shape[:2], 3 * HEADS, WIDTH // HEADS).transpose(1, 2)
        q, k, v = heads.chunk(3, dim=1)
        if rope is not None:
            cos, sin = rope
            q, k = q * cos + q.roll(1, -1) * sin, k * cos + k.roll(1, -1) * sin
        if hasattr(self, "core"):
            mixed = self.core(q, k, v)
        else:
            dropout = self.dropout if self.training else 0.0
            causal = mask is None
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Sequential):
    """The feed-forward network."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH), nn.Dropout(dropout)
        )


class Block(nn.Module):
    """A transformer block."""

    def __init__(self, *, core: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(WIDTH), Attention(core=core, dropout=dropout)
        self.drop, self.norm2 = nn.Dropout(dropout), nn.LayerNorm(WIDTH)
        self.mlp = Mlp(dropout)

    def forward(self, hidden, mask=None, rope=None):
        hidden = hidden + self.drop(self.attn(self.norm1(hidden), mask, rope))
        return hidden + self.mlp(self.norm2(hidden))


class Gpt(nn.Module):
    """Tokens to logits; ``run`` is the loop over the blocks, which most models below replace."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.h = nn.ModuleList([Block(**options) for _ in range(BLOCKS)])
        self.n_blocks = BLOCKS
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def run(self, x):
        for block in self.h:
            x = block(x)
        return x

    def forward(self, tokens):
        return self.head(self.norm(self.run(self.embed(tokens))))


class Tied(Gpt):
    """The head is the embedding, and two blocks share a matrix."""

    def __init__(self) -> None:
        super().__init__(dropout=0.1)
        self.head.weight = self.embed.weight
        self.h[3].attn.out.weight = self.h[0].attn.out.weight


class FrozenSome(Gpt):
    """Blocks 0 and 2 are frozen."""

    def __init__(self) -> None:
        super().__init__(dropout=0.1)
        for index in (0, 2):
            self.h[index].requires_grad_(False)


class FrozenPrefix(Gpt):
    """Nothing up to block 2 is trained: the first boundaries require no gradient."""

    def __init__(self) -> None:
        super().__init__(dropout=0.1)
        self.embed.requires_grad_(False)
        self.h[:3].requires_grad_(False)


class TupleOutput(Gpt):
    """Returns logits and hidden states."""

    def forward(self, tokens):
        hidden = self.norm(self.run(self.embed(tokens)))
        return self.head(hidden), hidden


class DictOutput(Gpt):
    """Returns a loss and logits by name."""

    def forward(self, tokens):
        logits = super().forward(tokens)
        return {"loss": F.cross_entropy(logits.flatten(0, 1), tokens.flatten()), "logits": logits}


class Keywords(Gpt):
    """Everything comes by keyword, the boundary not first, with a mask and rotary tables."""

    def run(self, x):
        upper = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
        mask = torch.zeros(TOKENS, TOKENS).masked_fill(upper, float("-inf"))
        angles = torch.arange(TOKENS).unsqueeze(-1) / torch.arange(1, WIDTH // HEADS + 1)
        rope = (angles.cos(), angles.sin())
        for block in self.h:
            x = block(mask=mask, rope=rope, hidden=x)
        return x


class Wrapped(nn.Module):
    """A model in a model in a model."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.model = Gpt(dropout=0.1)

    def forward(self, tokens):
        return self.inner.model(tokens)


class Small(nn.Module):
    """A block of few operations; ``shift`` and ``table`` are what a model may hand it besides."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1)

    def forward(self, x, shift=None, *, table=None):
        x = self.drop(torch.tanh(self.linear(x)))
        x = x if shift is None else x + shift
        return x if table is None else x * table["scale"]


class Loop(nn.Module):
    """A chain of small blocks; subclasses differ in how they run it."""

    block: Callable[[], nn.Module] = Small

    def __init__(self) -> None:
        super().__init__()
        self.h = nn.ModuleList([self.block() for _ in range(BLOCKS)])
        self.n_blocks = BLOCKS

    def forward(self, x):
        for block in self.h:
            x = block(x)
        return x


class Extras(Loop):
    """Hands every block the same tensors, by position and by keyword, made anew for each."""

    def forward(self, x):
        table = {"scale": torch.full((WIDTH,), 0.9), "name": "scale"}
        for block in self.h:
            x = block(x, torch.linspace(0, 1, WIDTH), table=table)
        return x


class Pair(Small):
    """Returns its output and something else."""

    def forward(self, x, shift=None, *, table=None):
        x = super().forward(x, shift, table=table)
        return x, x.mean(-1, keepdim=True)


class Pairs(Loop):
    """Blocks return pairs of which the model takes the first."""

    block = Pair

    def forward(self, x):
        for block in self.h:
            x = block(x)[0]
        return x


class PairsUnpacked(Pairs):
    """Blocks return pairs, and the model uses both values of each."""

    def forward(self, x):
        total = 0
        for block in self.h:
            x, mean = block(x)
            total = total + mean
        return x + total


class PairsIndexed(Pairs):
    """Blocks return pairs, and the model reads the second value by its index."""

    def forward(self, x):
        total = 0
        for block in self.h:
            out = block(x)
            x, total = out[0], total + out[1]
        return x + total


class PairsPerhaps(Pairs):
    """Blocks return pairs, which the model finds out by looking."""

    def forward(self, x):
        for block in self.h:
            out = block(x)
            x = out[0] if isinstance(out, tuple) else out
        return x


class FirstRow(Loop):
    """Goes on with a part of what each block returns, in the place where others unpack a tuple."""

    def forward(self, x):
        for _ in self.h:
            x = torch.stack((x, x))
        for block in self.h:
            x = block(x)[0]
        return x


class Indexed(Loop):
    """Takes blocks by number."""

    def forward(self, x):
        for index in range(self.n_blocks):
            x = self.h[index](x)
        return x


class Sliced(Loop):
    """Takes all blocks by a slice."""

    def forward(self, x):
        for block in self.h[: self.n_blocks]:
            x = block(x)
        return x


class Halved(Loop):
    """Takes its blocks in two parts, with nothing between them."""

    def forward(self, x):
        for block in self.h[:3]:
            x = block(x)
        for block in self.h[3:]:
            x = block(x)
        return x


class Enumerated(Loop):
    """Counts its blocks and reads what differs between them."""

    def __init__(self) -> None:
        super().__init__()
        for index, block in enumerate(self.h):
            block.index = index

    def forward(self, x):
        for index, block in enumerate(self.h):
            assert block.index == index < len(self.h)
            x = block(x)
        return x


class Children(Loop):
    """Goes around the container's own iteration."""

    def forward(self, x):
        for block in self.h.children():
            x = block(x)
        return x


class Shared(Loop):
    """One block, run at every position (ALBERT)."""

    def __init__(self) -> None:
        super().__init__()
        self.h = nn.ModuleList([self.h[0]] * BLOCKS)


class Twice(Loop):
    """Runs its whole chain two times."""

    def forward(self, x):
        return super().forward(super().forward(x))


class Scaled(Loop):
    """Computes something between blocks."""

    def forward(self, x):
        for block in self.h:
            x = block(x) * 0.5
        return x


class Activated(Loop):
    """Calls a function of tensors between blocks."""

    def forward(self, x):
        for block in self.h:
            x = torch.relu(block(x))
        return x


class Method(Loop):
    """Calls a method of the output between blocks."""

    def forward(self, x):
        for block in self.h:
            x = block(x).sigmoid()
        return x


class Zipped(Loop):
    """Gives each block another argument."""

    def forward(self, x):
        for block, shift in zip(self.h, torch.eye(WIDTH), strict=False):
            x = block(x, shift)
        return x


class Collected(Loop):
    """Uses the outputs of all blocks."""

    def forward(self, x):
        found = []
        for block in self.h:
            x = block(x)
            found.append(x)
        return torch.stack(found).mean(0)


class Reversed(Loop):
    """Runs its blocks from the last to the first."""

    def forward(self, x):
        for block in reversed(self.h):
            x = block(x)
        return x


class Skipping(Loop):
    """Leaves one block out."""

    def forward(self, x):
        for index, block in enumerate(self.h):
            if index != 1:
                x = block(x)
        return x


class LeftEarly(Loop):
    """Leaves its last block out."""

    def forward(self, x):
        for index, block in enumerate(self.h):
            if index == BLOCKS - 1:
                break
            x = block(x)
        return x


class NormBlock(nn.Module):
    """A residual block with batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return x + self.drop(F.relu(self.norm(self.linear(x))))


class Norms(nn.Module):
    """A chain with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([NormBlock() for _ in range(BLOCKS)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class ConvBlock(nn.Module):
    """A residual block of convolutions."""

    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width // stride, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width // stride, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + self.down(x))


class ResNet(nn.Module):
    """Stages in containers of their own, with code between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.layer1 = nn.Sequential(*[ConvBlock(4) for _ in range(3)])
        self.layer2 = nn.Sequential(ConvBlock(8, 2), ConvBlock(8), ConvBlock(8))
        self.layer3 = nn.Sequential(ConvBlock(16, 2), ConvBlock(16))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.layer1(self.stem(x))
        x = self.layer2(x * 0.9)
        return self.head(self.layer3(x).mean((2, 3)))


class Stage(nn.Module):
    """A block of a chain of plain functions."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.linear(torch.relu(x))


class PairStage(nn.Module):
    """A block that takes and returns a pair, as a ``Sequential`` hands it on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1)

    def forward(self, pair):
        x, total = pair
        x = self.drop(torch.tanh(self.linear(x)))
        return x, total + x


class PairSequential(nn.Module):
    """A ``Sequential`` that hands on pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(*[PairStage() for _ in range(BLOCKS)])

    def forward(self, x):
        return self.stages((x, torch.zeros_like(x)))


class Encoder(nn.Module):
    """PyTorch's own encoder."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, 0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, BLOCKS, enable_nested_tensor=False)

    def forward(self, x):
        return self.encoder(x)


def chain_of(n_blocks: int, block: Callable[[], nn.Module] = Stage) -> nn.Sequential:
    """``x -> Linear(relu(x))`` as often as asked."""
    seed(0)
    return nn.Sequential(*[block() for _ in range(n_blocks)])


def _unlike() -> nn.Module:
    return nn.Sequential(
        nn.Linear(WIDTH, 24),
        nn.Tanh(),
        nn.BatchNorm1d(24),
        nn.Dropout(0.1),
        nn.Linear(24, WIDTH),
        nn.Sigmoid(),
        nn.Linear(WIDTH, 3),
    )


def _tokens() -> Tensor:
    return torch.randint(VOCABULARY, (2, TOKENS))


def _rows() -> Tensor:
    return torch.randn(7, WIDTH)


def _sequences() -> Tensor:
    return torch.randn(2, TOKENS, WIDTH)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, its input, and what a strategy may find in it.

    Attributes:
        build: makes the model.
        data: makes a batch.
        attention: blocks hold an attention sub-module; ``"core"``: with a core that is a module,
            ``"sdpa"``: that calls ``scaled_dot_product_attention``, ``"hidden"``: that does so
            where no mode for functions sees it.
        smooth: a small change of an activation changes the gradient little.
    """

    build: Callable[[], nn.Module]
    data: Callable[[], Tensor] = _rows
    attention: str | None = None
    smooth: bool = True

    def model(self) -> nn.Module:
        """The same weights every time."""
        seed(0)
        return self.build().train()

    def input(self) -> Tensor:
        """The same batch every time."""
        seed(1)
        return self.data()


def _text(build: Callable[[], nn.Module], attention: str = "sdpa") -> Case:
    return Case(build, _tokens, attention=attention)


CASES = {
    "gpt": _text(lambda: Gpt(dropout=0.1)),
    "core": _text(lambda: Gpt(core=True), "core"),
    "tied": _text(Tied),
    "frozen-some": _text(FrozenSome),
    "frozen-prefix": _text(FrozenPrefix),
    "tuple-output": _text(lambda: TupleOutput(dropout=0.1)),
    "dict-output": _text(lambda: DictOutput(dropout=0.1)),
    "keywords": _text(lambda: Keywords(dropout=0.1)),
    "wrapped": _text(Wrapped),
    "encoder": Case(Encoder, _sequences, attention="hidden", smooth=False),
    "loop": Case(Loop),
    "extras": Case(Extras),
    "pairs": Case(Pairs),
    "indexed": Case(Indexed),
    "sliced": Case(Sliced),
    "enumerated": Case(Enumerated),
    "children": Case(Children),
    "shared": Case(Shared),
    "twice": Case(Twice),
    "pairs-unpacked": Case(PairsUnpacked),
    "pairs-indexed": Case(PairsIndexed),
    "pairs-perhaps": Case(PairsPerhaps),
    "first-row": Case(FirstRow),
    "scaled": Case(Scaled),
    "activated": Case(Activated),
    "method": Case(Method),
    "zipped": Case(Zipped),
    "collected": Case(Collected),
    "reversed": Case(Reversed),
    "norms": Case(Norms, smooth=False),
    "resnet": Case(ResNet, lambda: torch.randn(3, 3, 8, 8), smooth=False),
    "sequential": Case(lambda: chain_of(BLOCKS, NormBlock), smooth=False),
    "pair-sequential": Case(PairSequential),
    "unlike": Case(_unlike, smooth=False),
}


@dataclasses.dataclass
class Result:
    """What a training step leaves behind."""

    loss: Tensor
    outputs: list[Tensor]
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]
    random_state: Tensor


@st.composite
def nested_plans(draw: st.DrawFn, first: int, end: int, depth: int = 3) -> plans.Plan:
    """Any plan of the blocks from ``first`` up to ``end``."""
    nodes: list[plans.Node] = []
    while first < end:
        size = draw(st.integers(0, end - first)) if depth else 0
        if size:
            nodes.append(draw(nested_plans(first, first + size, depth - 1)))
        else:
            nodes.append(first)
        first += size or 1
    return tuple(nodes)


def loss_of(output: Any) -> Tensor:
    """A number that depends on all of ``output``."""
    total = torch.zeros(())
    for tensor in tree_leaves(output):
        weights = torch.arange(tensor.numel(), dtype=torch.float32).cos().view(tensor.shape)
        total = total + (tensor.float().square() + weights * tensor.float()).mean()
    return total


def step(
    model: nn.Module,
    data: Tensor,
    *,
    autocast: bool = False,
    passes: int = 1,
    backwards: int = 1,
) -> Result:
    """Forward and backward from seed 2 and from no gradients.

    Args:
        model: in whichever mode it is.
        data: a batch; of numbers, its gradient is taken too.
        autocast: forward in bfloat16.
        passes: forward passes whose gradients add up.
        backwards: backward passes through the graph of each.
    """
    seed(2)
    model.zero_grad()
    data = data.clone().requires_grad_(data.is_floating_point())
    for _ in range(passes):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model(data)
            loss = loss_of(output)
        for left in reversed(range(backwards)):
            loss.backward(retain_graph=left > 0)
    leaves = {**dict(model.named_parameters()), "the input": data}
    return Result(
        loss.detach(),
        [leaf.detach() for leaf in tree_leaves(output)],
        {name: None if p.grad is None else p.grad.clone() for name, p in leaves.items()},
        {name: buffer.clone() for name, buffer in model.named_buffers()},
        torch.get_rng_state(),
    )


def assert_same(found: Result, wanted: Result) -> None:
    """Bitwise."""
    assert torch.equal(found.loss, wanted.loss)
    for one, other in zip(found.outputs, wanted.outputs, strict=True):
        assert torch.equal(one, other)
    assert found.gradients.keys() == wanted.gradients.keys()
    for name, gradient in wanted.gradients.items():
        assert same(found.gradients[name], gradient), f"another gradient of {name}"
    assert_same_state(found, wanted)


def assert_same_state(found: Result, wanted: Result) -> None:
    """Buffers and random state, which even inexact strategies may not change."""
    assert found.buffers.keys() == wanted.buffers.keys()
    for name, buffer in wanted.buffers.items():
        assert torch.equal(found.buffers[name], buffer), f"another buffer {name}"
    assert torch.equal(found.random_state, wanted.random_state)


def same(one: Tensor | None, other: Tensor | None) -> bool:
    """Both missing, or equal."""
    return one is other if one is None or other is None else torch.equal(one, other)


def distance(found: Result, wanted: Result) -> float:
    """Relative error of the whole gradient; infinite if any is missing or not finite."""
    squares, norm = torch.zeros(()), torch.zeros(())
    for name, gradient in wanted.gradients.items():
        other = found.gradients[name]
        if gradient is None or other is None:
            squares = squares + (0.0 if gradient is other else torch.inf)
            continue
        squares = squares + (other - gradient).square().sum()
        norm = norm + gradient.square().sum()
    return (squares / norm).sqrt().nan_to_num(nan=torch.inf).item()


@contextlib.contextmanager
def no_checkpoint() -> Iterator[None]:
    """Fails the test if anything is checkpointed."""

    def fail(*_: Any, **__: Any) -> None:
        pytest.fail("a checkpoint was made where none belongs")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_module, "framed", fail)
        yield


@contextlib.contextmanager
def counted(blocks: Sequence[nn.Module]) -> Iterator[list[int]]:
    """How often each block's forward is entered, checkpointed forwards once for each run."""
    counts = [0] * len(blocks)
    originals = [block.linear.forward for block in blocks]

    def counting(index: int) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            counts[index] += 1
            return originals[index](x)

        return forward

    for index, block in enumerate(blocks):
        block.linear.forward = counting(index)
    try:
        yield counts
    finally:
        for block in blocks:
            del block.linear.forward
