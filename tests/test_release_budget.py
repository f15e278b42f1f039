"""A budget of a step whose gradients are released: predicted, and measured in the usual loop."""

import copy
import functools
import re

import pytest
import torch
from test_training_budget import Sided
from torch import nn
from torch.utils._pytree import tree_leaves

import strategies
from strategies import Unsupported
from strategies.profiling.allocator import AllocatorTrace
from strategies.profiling.ledger import unique_bytes
from strategies.profiling.step import ExampleStep
from strategies.profiling.update import update_bytes

WIDTH, ROWS, BLOCKS = 96, 64, 6


class Block(nn.Module):
    """A norm, two matrices with biases, and a sum."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Tied(nn.Module):
    """A language model whose first and last weight are one."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(160, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        scores = x @ self.embed.weight.T
        return {"loss": nn.functional.cross_entropy(scores, tokens), "scores": scores}


class Wide(nn.Module):
    """Blocks of which the last two learn nothing."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return {"loss": self.head(x).square().mean()}


MODELS = {
    "tied": (Tied, lambda: torch.arange(ROWS).remainder(160)),
    "wide": (Wide, lambda: torch.ones(ROWS, WIDTH)),
    "sided": (Sided, lambda: torch.ones(32, 24)),
}


def prepared_model(name, **options):
    torch.manual_seed(0)
    make, batch = MODELS[name]
    model = make()
    return model, batch(), torch.optim.AdamW(model.parameters(), **options)


def states(optimizer):
    leaves = tree_leaves(list(optimizer.state.values()))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def peak_bytes(model, batch, optimizer):
    """The third step of the usual loop, by the allocator's events."""
    out = None
    for number in range(3):
        trace = AllocatorTrace()
        if number == 2:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            held = [*model.parameters(), batch, *states(optimizer), *gradients, *out.values()]
            start_bytes = unique_bytes(held)
            del held, gradients
        with trace:
            trace.mark("start")
            out = model(batch)
            out["loss"].backward()
            optimizer.step()
            trace.mark("end")
        optimizer.zero_grad()
    return start_bytes + trace.working_bytes("start", "end")


def smallest(error):
    found = re.search(r"the smallest budget that does is ([\d,]+) bytes", str(error))
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("share", ["100%", "70%", "50%", "1"])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_the_peak_of_the_usual_loop_is_predicted(name, foreach, share):
    model, batch, optimizer = prepared_model(name, foreach=foreach)
    given = {"example": (batch,), "optimizer": optimizer, "release_gradients": True}
    try:
        applied = strategies.apply(model, "optimal", budget=share, **given)
    except Unsupported as error:
        applied = strategies.apply(model, "optimal", budget=smallest(error), **given)
    predicted_bytes = applied.prediction.peak_bytes
    measured_bytes = peak_bytes(model, batch, optimizer)
    print(
        name,
        foreach,
        share,
        predicted_bytes,
        measured_bytes,
        measured_bytes / predicted_bytes,
        applied.prediction.peak_phase,
    )
    assert 0.97 * predicted_bytes <= measured_bytes <= predicted_bytes
