"""Vision transformers with a class token."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.workloads.base import Attention, Workload
from bench.workloads.images import CHANNELS, ImageWorkload
from bench.workloads.layers import INIT_STD, Block, Linear
from bench.workloads.text import check_heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitWorkload(ImageWorkload):
    """A ViT that classifies images.

    Attributes:
        patch: Height and width of a patch in pixels; must divide ``image``.
        heads: Attention heads; must divide ``dim``.
        dropout: Probability, on embeddings, attention weights and both residual branches.
        attention: The attention kernel.
    """

    patch: int
    heads: int
    dropout: float = 0.0
    attention: Attention = "math"

    blocks: ClassVar[str] = "blocks"

    @property
    def seq(self) -> int:
        """Tokens: the patches and the class token."""
        return (self.image // self.patch) ** 2 + 1

    def build(self) -> nn.Module:
        """A `Vit`."""
        return Vit(self)

    def validate(self) -> None:
        """Raise ``ValueError`` when fields do not fit together."""
        check_heads(self.dim, self.heads)
        if self.image % self.patch:
            raise ValueError(
                f"patch must divide image: {self.patch} does not divide {self.image} pixels"
            )


class Vit(nn.Module):
    """The model; ``blocks`` is an ``nn.Sequential`` that is called as one."""

    def __init__(self, shape: VitWorkload) -> None:
        super().__init__()
        dim = shape.dim
        self.conv_proj = nn.Conv2d(CHANNELS, dim, shape.patch, stride=shape.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.empty(1, shape.seq, dim).normal_(std=INIT_STD))
        self.drop = nn.Dropout(shape.dropout)
        self.blocks = nn.Sequential(*(_block(shape) for _ in range(shape.layers)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        # Not zero as in the papers: a zero head gives every other weight a zero first gradient,
        # and there would be nothing to compare.
        self.head = Linear(dim, shape.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, 3, image, image]`` to logits ``[B, classes]``."""
        patches = self.conv_proj(images).flatten(2).transpose(1, 2)
        token = self.class_token.expand(patches.shape[0], -1, -1)
        x = self.drop(torch.cat((token, patches), dim=1) + self.positions)
        logits: Tensor = self.head(self.norm(self.blocks(x)[:, 0]))
        return logits


def _block(shape: VitWorkload) -> Block:
    return Block(
        shape.dim,
        shape.heads,
        causal=False,
        kernel=shape.attention,
        dropout=shape.dropout,
        gelu="none",
        eps=1e-6,
    )


_B16 = VitWorkload(
    name="vit-b16",
    summary="ViT-B/16 on 224-pixel images",
    scale="real",
    layers=12,
    dim=768,
    heads=12,
    image=224,
    patch=16,
    batch=2,
)

WORKLOADS: tuple[Workload, ...] = (
    VitWorkload(
        name="vit-mini",
        summary="Small ViT on 64-pixel images",
        layers=4,
        dim=128,
        heads=4,
        image=64,
        patch=8,
        batch=4,
        classes=10,
    ),
    _B16,
    dataclasses.replace(
        _B16,
        name="vit-h14",
        summary="ViT-H/14 on 224-pixel images",
        scale="large",
        layers=32,
        dim=1280,
        heads=16,
        patch=14,
        batch=32,
    ),
)
