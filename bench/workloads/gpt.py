"""GPT-2 and GPT-3: pre-norm decoders with learned positions."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.workloads.base import Workload
from bench.workloads.layers import Block, Embedding, Linear
from bench.workloads.text import TextWorkload

GPT2_VOCAB = 50257


@dataclasses.dataclass(frozen=True, kw_only=True)
class GptWorkload(TextWorkload):
    """A GPT that predicts the next byte.

    Attributes:
        positions: Rows of the learned position embedding, the longest ``seq``.
        dropout: Probability, on embeddings, attention weights and both residual branches.
        tied: Whether the output projection is the token embedding.
    """

    positions: int = 1024
    dropout: float = 0.0
    tied: bool = True

    blocks: ClassVar[str] = "h"

    def build(self) -> nn.Module:
        """A `Gpt`."""
        return Gpt(self)

    def validate(self) -> None:
        """Raise ``ValueError`` when fields do not fit together."""
        super().validate()
        if self.seq > self.positions:
            raise ValueError(f"seq {self.seq} is more than the {self.positions} positions")


class Gpt(nn.Module):
    """The model; its forward loops over the ``nn.ModuleList`` ``h``."""

    def __init__(self, shape: GptWorkload) -> None:
        super().__init__()
        self.wte = Embedding(shape.vocab, shape.dim)
        self.wpe = Embedding(shape.positions, shape.dim)
        self.drop = nn.Dropout(shape.dropout)
        blocks = [_block(shape) for _ in range(shape.layers)]
        self.h = nn.ModuleList(blocks)
        self.ln_f = nn.LayerNorm(shape.dim)
        self.lm_head = None if shape.tied else Linear(shape.dim, shape.vocab, bias=False)
        _shrink_residual_branches(blocks)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids int64 ``[B, T]`` to logits ``[B, T, vocab]``."""
        x = self.enter(ids)
        for block in self.h:
            x = block(x)
        return self.leave(x)

    def enter(self, ids: Tensor) -> Tensor:
        """Token ids int64 ``[B, T]`` to what the first block takes, ``[B, T, dim]``."""
        x: Tensor = self.drop(self.wte(ids) + self.positions(ids.shape[1]))
        return x

    def positions(self, count: int) -> Tensor:
        """What stands for the first positions, ``[count, dim]``."""
        return self.wpe.weight[:count]

    def leave(self, x: Tensor) -> Tensor:
        """What the last block gives to logits ``[B, T, vocab]``."""
        x = self.ln_f(x)
        logits: Tensor = self.lm_head(x) if self.lm_head else F.linear(x, self.wte.weight)
        return logits


def _block(shape: GptWorkload) -> Block:
    return Block(shape.dim, shape.heads, causal=True, kernel=shape.attention, dropout=shape.dropout)


@torch.no_grad()
def _shrink_residual_branches(blocks: list[Block]) -> None:
    """GPT-2's start: the residual sum of 2L branches keeps the size of one."""
    for block in blocks:
        for projection in (block.attn.c_proj, block.mlp.c_proj):
            projection.weight.mul_((2 * len(blocks)) ** -0.5)


_MINI = GptWorkload(
    name="gpt-mini",
    summary="Small GPT on bytes, math attention",
    layers=8,
    dim=256,
    heads=4,
    seq=256,
    batch=4,
    tied=False,
)
_GPT2 = GptWorkload(
    name="gpt2-small",
    summary="GPT-2 124M",
    scale="real",
    layers=12,
    dim=768,
    heads=12,
    seq=512,
    batch=1,
    vocab=GPT2_VOCAB,
)

WORKLOADS: tuple[Workload, ...] = (
    _MINI,
    dataclasses.replace(
        _MINI,
        name="gpt-mini-dropout",
        summary="gpt-mini with dropout 0.1, whose random state recomputation must restore",
        dropout=0.1,
    ),
    _GPT2,
    dataclasses.replace(
        _GPT2,
        name="gpt2-xl",
        summary="GPT-2 1.5B",
        scale="large",
        layers=48,
        dim=1600,
        heads=25,
        seq=1024,
    ),
    dataclasses.replace(
        _GPT2,
        name="gpt3-175b",
        summary="GPT-3 175B (dense attention in every block)",
        scale="large",
        layers=96,
        dim=12288,
        heads=96,
        seq=2048,
        positions=2048,
    ),
)
