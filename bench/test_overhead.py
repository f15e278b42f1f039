"""What a strategy costs beside its recomputation, where blocks are so small that it shows.

    pytest bench/test_overhead.py --benchmark-only

64 blocks of a 16-wide MLP, in one process and one thread, against PyTorch's own checkpoint around
each block. ``extra_info`` holds the median ratio of paired rounds and its quartiles.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import strategies
from bench.measure.time import interleave

BLOCKS, WIDTH, ROWS = 64, 16, 8
ROUNDS, WARMUP = 40, 3
CPU = torch.device("cpu")


class Block(nn.Module):
    """Two matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """``[rows, width]`` to the same."""
        down: Tensor = self.down(torch.tanh(self.up(x)))
        return x + down


class Chain(nn.Module):
    """Blocks one after the other, each called by ``call``."""

    def __init__(self, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        """``[rows, width]`` to the same."""
        for block in self.blocks:
            x = self.call(block, x)
        return x


def _plain(block: nn.Module, x: Tensor) -> Tensor:
    output: Tensor = block(x)
    return output


def _pytorch(block: nn.Module, x: Tensor) -> Tensor:
    output: Tensor = checkpoint(block, x, use_reentrant=False)
    return output


def _step(model: nn.Module, batch: Tensor) -> None:
    model(batch).sum().backward()
    model.zero_grad()


@contextlib.contextmanager
def _ready(step: Callable[[], None]) -> Iterator[Callable[[], None]]:
    yield step


@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=4)"])
def test_overhead(spec: str, benchmark: Any) -> None:
    """One step under a strategy."""
    torch.set_num_threads(1)
    batch = torch.randn(ROWS, WIDTH)
    ours, peer = Chain(_plain), Chain(_pytorch)
    strategies.apply(ours, spec)
    steps = {name: functools.partial(_step, m, batch) for name, m in (("peer", peer), (spec, ours))}
    contenders = {name: functools.partial(_ready, step) for name, step in steps.items()}
    interleave(contenders, WARMUP, CPU)
    seconds = interleave(contenders, ROUNDS, CPU)
    ratios = [own / other for own, other in zip(seconds[spec], seconds["peer"], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    benchmark.group = "64 blocks of a 16-wide MLP"
    benchmark.extra_info.update({"ratio": median, "ratio_quartiles": [low, high]})
    benchmark.pedantic(steps[spec], rounds=5)
    print(f"{spec}: {median:.3f} [{low:.3f}, {high:.3f}] × PyTorch's checkpoint of each block")  # noqa: T201
