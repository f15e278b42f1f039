"""Modules that the transformer workloads share.

Names are part of the contract: a block's attention is ``attn`` (holding ``core``) and its
feed-forward network ``mlp``, since strategies find what to recompute or store by those names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.workloads.base import Attention

Gelu = Literal["none", "tanh"]
INIT_STD = 0.02  # GPT-2's


class Linear(nn.Linear):
    """A linear layer that starts as GPT-2's do; overriding the default fills weights only once."""

    def reset_parameters(self) -> None:
        """Weights normal(0, 0.02), bias zero."""
        nn.init.normal_(self.weight, std=INIT_STD)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """An embedding that starts as GPT-2's do."""

    def reset_parameters(self) -> None:
        """Weights normal(0, 0.02)."""
        nn.init.normal_(self.weight, std=INIT_STD)


def _math(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> Tensor:
    scale: float = q.shape[-1] ** -0.5
    scores = q @ k.transpose(-2, -1) * scale
    if causal:
        # Added, not filled: masked_fill would save the mask for backward in every layer, a sum
        # saves nothing. Not in place: a strategy may be holding the product.
        t, s = scores.shape[-2:]
        blocked = torch.full((t, s), float("-inf"), dtype=scores.dtype, device=scores.device)
        scores = scores + blocked.triu(1)
    weights = scores.softmax(dim=-1)
    if dropout > 0:
        weights = F.dropout(weights, dropout)
    return weights @ v


TILED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
"""Kernels that keep no matrix of scores; CUDA's flash takes half precision alone, in fp32 the other
runs."""


def _flash(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> Tensor:
    try:
        with sdpa_kernel(TILED):
            return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)
    except RuntimeError as error:
        if not dropout or q.device.type != "cpu":
            raise
        raise RuntimeError(
            f"PyTorch's flash attention for CPU has no dropout (asked for {dropout}); "
            "use attention='math', dropout=0 or a GPU"
        ) from error


KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor, bool, float], Tensor]] = {
    "math": _math,
    "flash": _flash,
}


class AttentionCore(nn.Module):
    """Scaled dot-product attention between the projections, without parameters.

    ``kernel`` may be changed on a built model: ``math`` keeps the ``[B, H, T, T]`` weights for
    backward, ``flash`` keeps one ``[B, H, T]`` normaliser and recomputes them tile by tile.
    """

    def __init__(self, *, causal: bool, dropout: float = 0.0, kernel: Attention = "math") -> None:
        super().__init__()
        self.causal = causal
        self.dropout = dropout
        self.kernel = kernel

    @property
    def kernel(self) -> str:
        """Which kernel computes it: ``math`` or ``flash``."""
        return self._kernel

    @kernel.setter
    def kernel(self, value: str) -> None:
        if value not in KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, not {value!r}")
        self._kernel = value

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend; all of ``[B, H, T, D]``, as is the result."""
        dropout = self.dropout if self.training else 0.0
        return KERNELS[self.kernel](q, k, v, self.causal, dropout)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"kernel={self.kernel!r}, causal={self.causal}, dropout={self.dropout}"


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``[B, T, H·D]`` as ``[B, H, T, D]``, a view."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``[B, H, T, D]`` as ``[B, T, H·D]``."""
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, dim: int, heads: int, core: AttentionCore, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = Linear(dim, 3 * dim)
        self.core = core
        self.c_proj = Linear(dim, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, dim]`` to the same."""
        q, k, v = self.c_attn(x).chunk(3, dim=-1)
        h = self.heads
        mixed = self.core(split_heads(q, h), split_heads(k, h), split_heads(v, h))
        out: Tensor = self.drop(self.c_proj(merge_heads(mixed)))
        return out


class Mlp(nn.Module):
    """The feed-forward network: four times wider inside, with GELU."""

    def __init__(self, dim: int, dropout: float, gelu: Gelu) -> None:
        super().__init__()
        self.c_fc = Linear(dim, 4 * dim)
        self.act = nn.GELU(approximate=gelu)
        self.c_proj = Linear(4 * dim, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, dim]`` to the same."""
        out: Tensor = self.drop(self.c_proj(self.act(self.c_fc(x))))
        return out


class Block(nn.Module):
    """A pre-norm transformer block, as in GPT-2 and ViT."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool,
        kernel: Attention,
        dropout: float = 0.0,
        gelu: Gelu = "tanh",
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        core = AttentionCore(causal=causal, dropout=dropout, kernel=kernel)
        self.ln_1 = nn.LayerNorm(dim, eps=eps)
        self.attn = SelfAttention(dim, heads, core, dropout)
        self.ln_2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, dropout, gelu)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, dim]`` to the same."""
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out
