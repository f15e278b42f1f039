"""The textbook's chain: identical layers that each keep one tensor."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from bench.workloads import text
from bench.workloads.base import Batch, SizedWorkload, Workload


class ReluLinear(nn.Module):
    """``x -> W relu(x) + b``.

    ReLU saves its result, and the linear layer saves its input, which is that same tensor: one
    ``[batch, dim]`` tensor a block, and the block's own input is not kept.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        # Kaiming: keeps the stream's size at any depth, where PyTorch's default shrinks it.
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, dim]`` to the same."""
        out: Tensor = self.linear(F.relu(x))
        return out


class Chain(nn.Module):
    """A stem, then equal blocks.

    Without the stem the first block's input would need no gradient, and its backward would be
    cheaper than the others'.
    """

    def __init__(self, layers: int, dim: int) -> None:
        super().__init__()
        self.stem = nn.Linear(dim, dim)
        self.blocks = nn.Sequential(*(ReluLinear(dim) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, dim]`` to the same."""
        out: Tensor = self.blocks(self.stem(x))
        return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class MlpChain(SizedWorkload):
    """A chain with the cost model of the papers: unit time and unit memory per layer.

    In float32 the blocks save exactly ``layers × batch × dim × 4`` bytes for backward. The stem
    saves only the batch, and the mean square one prediction, ``batch × dim × 4`` bytes more.
    """

    blocks: ClassVar[str] = "blocks"

    def build(self) -> nn.Module:
        """A `Chain`."""
        return Chain(self.layers, self.dim)

    def make_batch(self) -> Batch:
        """Inputs and targets, each float32 ``[batch, dim]`` in −1 to 1."""
        both = text.floats((2, self.batch, self.dim), self.seed)
        return both[0].clone(), both[1].clone()  # clones: a view would keep both storages

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean square distance from the target.

        Not ``F.mse_loss``: on a CPU its result keeps the memory of the unreduced losses.
        """
        inputs, target = batch
        distance: Tensor = model(inputs) - target
        return distance.square().mean()


WORKLOADS: tuple[Workload, ...] = (
    MlpChain(
        name="mlp-chain",
        summary="Equal ReLU-linear blocks: the papers' cost model to the byte",
        layers=16,
        batch=2048,
        dim=256,
    ),
)
