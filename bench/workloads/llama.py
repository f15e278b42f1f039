"""Llama: RMSNorm, rotary positions, SwiGLU and grouped-query attention."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.workloads.base import Workload
from bench.workloads.layers import AttentionCore, Embedding, Linear, merge_heads, split_heads
from bench.workloads.text import TextWorkload

Rope = tuple[Tensor, Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaWorkload(TextWorkload):
    """A Llama that predicts the next byte.

    Attributes:
        kv_heads: Key and value heads; must divide ``heads``.
        ffn: Inner width of the feed-forward network.
        theta: Base of the rotary wavelengths.
    """

    kv_heads: int
    ffn: int
    theta: float = 10_000.0

    blocks: ClassVar[str] = "layers"

    def build(self) -> nn.Module:
        """A `Llama`."""
        return Llama(self)

    def validate(self) -> None:
        """Raise ``ValueError`` when fields do not fit together."""
        super().validate()
        if self.heads % self.kv_heads:
            raise ValueError(
                f"kv_heads must divide heads: {self.kv_heads} do not divide {self.heads}"
            )
        if self.dim // self.heads % 2:
            raise ValueError(
                f"rotary positions need an even dim / heads, not {self.dim} / {self.heads}"
            )
        if not 0 < self.theta < float("inf"):
            raise ValueError(f"theta must be finite and above 0, not {self.theta!r}")


def rope_tables(seq: int, head_dim: int, theta: float, like: Tensor) -> Rope:
    """Cosines and sines of the rotary angles.

    Args:
        seq: Positions, counted from 0.
        head_dim: Features of a head, even.
        theta: Base of the wavelengths.
        like: Gives device and dtype.

    Returns:
        Two tensors ``[seq, head_dim]``; the second half of the features repeats the first.
    """
    features = torch.arange(0, head_dim, 2, device=like.device, dtype=torch.float32)
    position = torch.arange(seq, device=like.device, dtype=torch.float32)
    angles = torch.outer(position, theta ** (-features / head_dim)).repeat(1, 2)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Turn each pair of features ``(i, i + D/2)`` by its position's angle.

    Args:
        x: ``[B, H, T, D]``.
        rope: What `rope_tables` gave, ``[T, D]`` each.

    Returns:
        ``[B, H, T, D]`` in the dtype of ``x``.
    """
    cos, sin = (table.to(x.dtype) for table in rope)  # autocast hands in a narrower x
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class GroupedAttention(nn.Module):
    """Attention in which groups of query heads share one key and value head."""

    def __init__(self, shape: LlamaWorkload) -> None:
        super().__init__()
        self.heads, self.kv_heads = shape.heads, shape.kv_heads
        kv_dim = shape.dim // shape.heads * shape.kv_heads
        self.q_proj = Linear(shape.dim, shape.dim, bias=False)
        self.k_proj = Linear(shape.dim, kv_dim, bias=False)
        self.v_proj = Linear(shape.dim, kv_dim, bias=False)
        self.core = AttentionCore(causal=True, kernel=shape.attention)
        self.o_proj = Linear(shape.dim, shape.dim, bias=False)

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        """``[B, T, dim]`` to the same."""
        q = rotate(split_heads(self.q_proj(x), self.heads), rope)
        k = rotate(split_heads(self.k_proj(x), self.kv_heads), rope)
        v = split_heads(self.v_proj(x), self.kv_heads)
        # Both kernels take equal head counts, so the group's head is copied, as most codes do.
        group = self.heads // self.kv_heads
        mixed = self.core(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))
        out: Tensor = self.o_proj(merge_heads(mixed))
        return out


class SwiGlu(nn.Module):
    """The gated feed-forward network."""

    def __init__(self, dim: int, ffn: int) -> None:
        super().__init__()
        self.gate_proj = Linear(dim, ffn, bias=False)
        self.up_proj = Linear(dim, ffn, bias=False)
        self.down_proj = Linear(ffn, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, dim]`` to the same."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class LlamaBlock(nn.Module):
    """A pre-norm block; takes the rotary tables as the keyword argument ``rope``."""

    def __init__(self, shape: LlamaWorkload) -> None:
        super().__init__()
        self.norm_1 = nn.RMSNorm(shape.dim, eps=1e-5)
        self.attn = GroupedAttention(shape)
        self.norm_2 = nn.RMSNorm(shape.dim, eps=1e-5)
        self.mlp = SwiGlu(shape.dim, shape.ffn)

    def forward(self, x: Tensor, *, rope: Rope) -> Tensor:
        """``[B, T, dim]`` to the same."""
        x = x + self.attn(self.norm_1(x), rope)
        out: Tensor = x + self.mlp(self.norm_2(x))
        return out


class Llama(nn.Module):
    """The model; its forward loops over ``layers`` and hands each block the same tables."""

    def __init__(self, shape: LlamaWorkload) -> None:
        super().__init__()
        self.head_dim, self.theta = shape.dim // shape.heads, shape.theta
        self.embed = Embedding(shape.vocab, shape.dim)
        self.layers = nn.ModuleList(LlamaBlock(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.dim, eps=1e-5)
        self.lm_head = Linear(shape.dim, shape.vocab, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids int64 ``[B, T]`` to logits ``[B, T, vocab]``."""
        x = self.enter(ids)
        rope = self.rope(ids.shape[1], x)
        for layer in self.layers:
            x = layer(x, rope=rope)
        return self.leave(x)

    def enter(self, ids: Tensor) -> Tensor:
        """Token ids int64 ``[B, T]`` to what the first block takes, ``[B, T, dim]``."""
        x: Tensor = self.embed(ids)
        return x

    def rope(self, seq: int, like: Tensor) -> Rope:
        """What every block takes besides, made once a forward (`rope_tables`).

        It is no buffer: a model built on meta would lose a buffer's values.
        """
        return rope_tables(seq, self.head_dim, self.theta, like=like)

    def leave(self, x: Tensor) -> Tensor:
        """What the last block gives to logits ``[B, T, vocab]``."""
        logits: Tensor = self.lm_head(self.norm(x))
        return logits


_LLAMA3_8B = LlamaWorkload(
    name="llama3-8b",
    summary="Llama 3 8B",
    scale="large",
    layers=32,
    dim=4096,
    heads=32,
    kv_heads=8,
    ffn=14336,
    seq=2048,
    batch=1,
    vocab=128256,
    theta=500_000.0,
)

WORKLOADS: tuple[Workload, ...] = (
    LlamaWorkload(
        name="llama-mini",
        summary="Small Llama on bytes; its blocks take a keyword argument",
        layers=6,
        dim=256,
        heads=8,
        kv_heads=2,
        ffn=688,
        seq=256,
        batch=4,
    ),
    _LLAMA3_8B,
    dataclasses.replace(
        _LLAMA3_8B,
        name="llama3-70b",
        summary="Llama 3 70B",
        layers=80,
        dim=8192,
        heads=64,
        ffn=28672,
    ),
)
