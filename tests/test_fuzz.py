"""Models of random traits under random plans and storages: as without, or a refusal."""

import contextlib
import copy
import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch
from effort import scaled
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from models import nested_plans, seed
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import strategies
from strategies import Unsupported, find_chain
from strategies.execution import layout
from strategies.storage import Disk, Storage

WIDTH = 4
EXAMPLES = 5000 if scaled(100) >= 100 else 300
PARTS = 10 if scaled(100) >= 100 else 2
"""That the processes of a run can share."""
SPECS = ("every_layer", "every_k(k=2)", "sqrt", "recursive", "offload(over=sqrt)")
DRAWS = {
    "torch": lambda: torch.rand(()).item(),
    "python": random.random,
    "gauss": lambda: random.gauss(0.5, 0.1),
    "numpy": np.random.random,
}
"""By any shared generator."""

RETURNS = ("tensor", "tuple", "dict", "dataclass")
WRITES = ("writes x", "writes side")
"""What may be refused."""
BLOCK_TRAITS = (
    *("batch norm", "dropout", "generator", "writes buffer", "replaces buffer", "counts"),
    *("in place", "no grad", "bf16", "fp32", "frozen", "leaves", "whole", "by keyword"),
    *("through forward", "own no grad", "appends", "view", "own autocast"),
    *("writes memory", "fills memory"),
    *(f"drops by {name}" for name in DRAWS),
)
MODEL_TRAITS = (
    *("side", "own sides", "trained side", "u-net", "residual", "branches", "bf16", "scales"),
    *("in place", "in place on a view", "writes side", "detaches", "shared", "collects", "views"),
    *("clones", "no grad first", "twice", "reversed", "hands on", "same again"),
    *(f"drops by {name}" for name in DRAWS),
    *(f"draws by {name}" for name in DRAWS),
)


@dataclasses.dataclass
class Output:
    """What some blocks return."""

    hidden: Tensor
    mean: Tensor


MAKE = {
    "tensor": lambda x, _: x,
    "tuple": lambda x, mean: (x, mean),
    "dict": lambda x, mean: {"mean": mean, "hidden": x},
    "dataclass": Output,
}


def hidden_of(value: Any) -> Tensor:
    """Whatever a block returned."""
    if isinstance(value, dict):
        return value["hidden"]
    return (
        value.hidden
        if isinstance(value, Output)
        else value[0]
        if isinstance(value, tuple)
        else value
    )


def autocast(enabled=True):
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


def drops(traits, p=0.3):
    return any(draw() < p for name, draw in DRAWS.items() if f"drops by {name}" in traits)


class Block(nn.Module):
    """As its traits say."""

    def __init__(self, returns, traits):
        super().__init__()
        self.returns, self.traits = returns, traits
        self.linear, self.count = nn.Linear(WIDTH, WIDTH), 0
        self.left = self.memory = None
        self.register_buffer("seen", torch.zeros(WIDTH))
        self.norm = nn.BatchNorm1d(WIDTH) if "batch norm" in traits else nn.Identity()
        self.drop = nn.Dropout(0.3 if "dropout" in traits else 0.0)
        self.generator = torch.Generator().manual_seed(3) if "generator" in traits else None
        self.requires_grad_("frozen" not in traits)

    def forward(self, x, side=None, *, seen=None):
        x = hidden_of(x)
        with contextlib.ExitStack() as stack:
            if {"bf16", "fp32"} & self.traits:
                stack.enter_context(autocast("bf16" in self.traits))
            if "own no grad" in self.traits:
                stack.enter_context(torch.no_grad())
            y = x if drops(self.traits) else self.compute(x, side)
        if "appends" in self.traits and seen is not None:
            seen.append(y)
        if "leaves" in self.traits:
            self.left = y.float().square().mean()
        return MAKE[self.returns](y, y.float().mean())

    def compute(self, x, side):
        if "writes x" in self.traits:
            x.mul_(0.9)
        if "writes side" in self.traits and side is not None:
            side.add_(0.1)
        y = self.norm(self.linear(x) + self.remembered(x))
        y = y.mul_(0.8).tanh_() if "in place" in self.traits else torch.tanh(y)
        y = self.drop(y)
        if self.generator is not None:
            y = y * torch.rand(WIDTH, generator=self.generator)
        y = y if side is None else y * (1 + side)
        y = y.t().contiguous().t()[:, :] if "view" in self.traits else y
        return x + 0.5 * y

    def remembered(self, x):
        """What depends on earlier calls."""
        with torch.no_grad():
            if "writes buffer" in self.traits:
                self.seen.mul_(0.5).add_(x.float().mean(0))
            if "replaces buffer" in self.traits:
                self.seen = self.seen * 0.5 + x.float().mean(0)
            if "writes memory" in self.traits:
                self.memory.add_(x.float().mean(0))
            if "fills memory" in self.traits:
                self.table[len(self.table)] = x.float().mean(0)
        self.count += "counts" in self.traits
        remembered = self.seen * (1 + self.count % 3) + self.count % 5
        if "fills memory" in self.traits:
            remembered = remembered + len(self.table) + self.table[0]
        return remembered if self.memory is None else remembered + self.memory


class Model(nn.Module):
    """As its traits say."""

    def __init__(self, blocks, traits):
        super().__init__()
        self.traits = traits
        made = [Block(*block) for block in blocks]
        if "shared" in traits:
            made[-1] = made[0]
            if len(made) > 4:
                made[3] = made[1]
        self.h = nn.ModuleList(made)
        self.side = nn.Parameter(torch.full((WIDTH,), 0.3))

    def forward(self, x):
        x = x * 1
        seen, outputs, total = [], [], 0
        side = self.first_side()
        self.reset()
        blocks = list(self.h)[:: -1 if "reversed" in self.traits else 1]
        with autocast("bf16" in self.traits):
            for _ in range(2 if "twice" in self.traits else 1):
                for index, block in enumerate(blocks):
                    if "u-net" in self.traits and index > len(blocks) // 2:
                        x = hidden_of(x) + 0.5 * outputs[len(blocks) - 1 - index]
                    before, x = x, self.call(index, block, x, side, seen)
                    if block.left is not None:
                        total, block.left = total + block.left, None
                    x = self.between(index, x, before, side)
                    outputs.append(hidden_of(x))
        if "collects" in self.traits:
            total = total + torch.stack([out.float() for out in outputs]).mean()
        return hidden_of(x).float().mean(0), total, [out.float().mean() for out in seen]

    def reset(self):
        """What a model gives its blocks anew in each forward; tensors where there was none."""
        for block in self.h:
            if "writes memory" in block.traits:
                block.memory = torch.zeros(WIDTH)
            if "fills memory" in block.traits:
                block.table = {}

    def first_side(self):
        if not {"side", "own sides", "trained side", "writes side"} & self.traits:
            return None
        return self.side * 1 if "trained side" in self.traits else torch.linspace(0, 1, WIDTH)

    def call(self, index, block, x, side, seen):
        if drops(self.traits):
            return x
        if "own sides" in self.traits:
            side = side * (index + 1)
        call = block.forward if "through forward" in block.traits else block
        x = x if "whole" in block.traits or "hands on" in self.traits else hidden_of(x)
        inputs = {"x": x, "side": side} if "by keyword" in block.traits else {}
        args = () if inputs else (x,) if side is None else (x, side)
        inputs |= {"seen": seen} if "appends" in block.traits else {}
        with contextlib.ExitStack() as stack:
            if "no grad" in block.traits or ("no grad first" in self.traits and index == 0):
                stack.enter_context(torch.no_grad())
            if "own autocast" in block.traits:
                stack.enter_context(autocast())
            out = call(*args, **inputs)
            if "same again" in self.traits and index == 1:
                out = hidden_of(out) + hidden_of(call(*args, **inputs))
            return out

    def between(self, index, x, before, side):
        for name, draw in DRAWS.items():
            if f"draws by {name}" in self.traits and draw() < 0.5:
                x = hidden_of(x) * draw()
        if "scales" in self.traits:
            x = torch.sin(hidden_of(x))
        self.write(hidden_of(x), side)
        if "detaches" in self.traits and index == 1:
            x = hidden_of(x).detach()
        if "views" in self.traits:
            x = hidden_of(x).view(-1, WIDTH)
        if "clones" in self.traits:
            x = hidden_of(x).clone()
        if "branches" in self.traits and index % 2:
            x = hidden_of(x) + hidden_of(self.h[index - 1](hidden_of(before).clone()))
        if "residual" in self.traits:
            x = hidden_of(x) + hidden_of(before)
        return x

    def write(self, x, side):
        if "in place" in self.traits:
            x.mul_(0.9)
        if "in place on a view" in self.traits:
            x[:, 1:].add_(0.1)
        if "writes side" in self.traits:
            side.mul_(0.9)


BLOCK = st.tuples(
    st.sampled_from(RETURNS), st.frozensets(st.sampled_from(BLOCK_TRAITS), max_size=4)
)


@st.composite
def cases(draw):
    """Blocks, traits of the model, a plan, and a storage."""
    blocks = draw(st.lists(BLOCK, min_size=3, max_size=7))
    traits = draw(st.frozensets(st.sampled_from(MODEL_TRAITS), max_size=4))
    written = draw(st.sampled_from(["", "", "", *WRITES]))
    if written:
        index = draw(st.integers(0, len(blocks) - 1))
        blocks[index] = blocks[index][0], blocks[index][1] | {written}
    plan = draw(st.sampled_from(SPECS) | nested_plans(0, len(blocks)))
    storage = draw(st.sampled_from(["none", "disk", "device"])) if isinstance(plan, tuple) else ""
    return blocks, traits, plan, storage


@dataclasses.dataclass(frozen=True)
class Run:
    """What two steps do.

    Attributes:
        backwards: backward passes of each forward.
        passes: forward passes before the backward passes.
        evaluates: without gradients, between the steps.
    """

    backwards: int = 1
    passes: int = 1
    evaluates: bool = False


REFUSED_BY_PYTORCH = (
    "in-place",
    "inplace",
    "does not require",
    "backward through the graph a second",
)
RUNS = st.builds(Run, st.integers(1, 2), st.integers(1, 2), st.booleans())


def steps(model, run):
    """The loss, gradients, buffers and random states of two steps."""
    seed(2)
    random.seed(2)
    np.random.seed(2)
    found = []
    for number in range(2):
        x = torch.linspace(-2, 2, 3 * WIDTH).view(3, WIDTH).mul(number + 1).requires_grad_()
        losses = [loss_of(model(x)) for _ in range(run.passes)]
        for left in reversed(range(run.backwards)):
            for loss in losses:
                loss.backward(retain_graph=left > 0)
        found += [*losses, x.grad, *descended(model), *left_by(model)]
        if run.evaluates and number == 0:
            with torch.no_grad():
                found += tree_leaves(model.eval()(x))
            model.train()
    return found


def loss_of(output):
    return sum(leaf.cos().sum() for leaf in tree_leaves(output) if isinstance(leaf, Tensor))


def descended(model):
    """All gradients; a small step along them."""
    gradients = [p.grad for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.sub_(p.grad, alpha=0.01)
                p.grad = None
    return gradients


def left_by(model):
    """Buffers, counters, and random states."""
    own = [b.generator.get_state() for b in model.h if b.generator is not None]
    counts = torch.tensor([block.count for block in model.h])
    return [*(b.clone() for b in model.buffers()), *own, counts, torch.get_rng_state(), *shared()]


def shared():
    """Of Python and numpy."""
    _, words, *rest = np.random.get_state()
    return [random.getstate(), tuple(words.tolist()), rest]


def same(one, other):
    return torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else (
        one is other if one is None or other is None else one == other
    )  # fmt: skip


def apply(model, plan, storage):
    if isinstance(plan, str):
        strategies.apply(model, plan)
        return
    kept = {"none": None, "disk": Storage(tier=Disk()), "device": Storage()}[storage]
    layout.install(find_chain(model), plan, kept)


def reference(model, run):
    """None where PyTorch itself refuses the model."""
    try:
        return steps(model, run)
    except RuntimeError as error:
        if any(words in str(error) for words in REFUSED_BY_PYTORCH):
            return None
        raise


@pytest.mark.filterwarnings("ignore:.*no block of h ran")  # all were dropped
@pytest.mark.parametrize("part", range(PARTS))
@settings(max_examples=EXAMPLES // PARTS, suppress_health_check=list(HealthCheck))
@given(cases(), RUNS)
def test_two_steps_are_as_without_or_refused(part, case, run):
    blocks, traits, plan, storage = case
    seed(0)
    model = Model(blocks, traits).train()
    wanted = reference(copy.deepcopy(model), run)
    if wanted is None:
        reject()
    apply(model, plan, storage)
    try:
        found = steps(model, run)
    except (Unsupported, RuntimeError) as error:
        if not is_right(error, blocks, traits):
            raise
        return
    assert len(found) == len(wanted)
    assert [n for n, pair in enumerate(zip(found, wanted, strict=True)) if not same(*pair)] == []


def is_right(error, blocks, traits):
    """Whether a model of these traits may be refused so."""
    all_traits = frozenset().union(*[own for _, own in blocks])
    if "writes to one of its arguments" in str(error):
        return bool({*WRITES} & all_traits)
    if "as it did not in its first" in str(error):
        late = {"writes buffer", "writes memory", "drops by numpy"} & all_traits
        return bool(late) and any(name.startswith("drops by") for name in all_traits)
    written = {"writes side", "in place", "in place on a view"} & traits or {*WRITES} & all_traits
    return "modified by an inplace operation" in str(error) and bool(written)
