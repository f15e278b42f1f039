"""Context parallel: ranks share every sequence, and attention goes round the ring of its ranks.

The ring is torch's own (`torch.distributed.tensor.experimental`, after Liu et al. 2023, arXiv
2310.01889), which its public entrance offers for CUDA's kernels alone; here it is given the CPU's
flash kernel. Of twice as many parts as ranks each rank holds one from the front and one from the
back (torch's balance for causal masks), so that all have the same to do.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.workloads.layers import AttentionCore

_SEQUENCE = 2
"""The dimension of the sequence in queries, keys and values, ``[B, H, T, D]``."""
_RING = "torch.distributed.tensor.experimental._context_parallel._attention"
_aten = torch.ops.aten


def available() -> bool:
    """Whether this PyTorch has a ring to build on, where it is looked for."""
    try:
        return importlib.util.find_spec(_RING) is not None
    except ModuleNotFoundError:
        return False


def shared(tensor: Tensor, rank: int, ranks: int, dim: int = 1) -> Tensor:
    """A rank's part of a sequence, in memory of its own.

    Args:
        tensor: of whole sequences, whose length twice the ranks divide.
        rank: which.
        ranks: that share.
        dim: of the sequence.
    """
    parts = tensor.chunk(2 * ranks, dim)
    return torch.cat([parts[rank], parts[2 * ranks - 1 - rank]], dim)


def split(model: nn.Module, group: dist.ProcessGroup) -> None:
    """Let ``model`` take its rank's part of each sequence, in place.

    Args:
        model: of a family whose positions are known (`bench.ranks.tensor_plans.FAMILIES`).
        group: whose ranks share.
    """
    rank, ranks = group.rank(), group.size()
    if hasattr(model, "rope"):
        _set(model, "rope", functools.partial(_rope, model.rope, rank, ranks))
    else:
        _set(model, "positions", functools.partial(_positions, model.positions, rank, ranks))
    for module in model.modules():
        if isinstance(module, AttentionCore):
            module.kernel = "flash"
            _set(module, "forward", functools.partial(_attend, group))


def _set(module: nn.Module, name: str, function: object) -> None:
    """A method of this one module."""
    module.__dict__[name] = function


def _positions(whole: Any, rank: int, ranks: int, count: int) -> Tensor:
    return shared(whole(count * ranks), rank, ranks, 0)


def _rope(whole: Any, rank: int, ranks: int, seq: int, like: Tensor) -> tuple[Tensor, ...]:
    return tuple(shared(table, rank, ranks, 0) for table in whole(seq * ranks, like))


def _attend(group: dist.ProcessGroup, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As `AttentionCore`, causal, over the parts of all ranks."""
    return cast("Tensor", _Ring.apply(q, k, v, group))  # type: ignore[no-untyped-call]


@functools.cache
def _ring() -> Any:
    """Torch's, which is imported where ranks share sequences alone: it brings its compiler."""
    return importlib.import_module(_RING)


class _Ring(torch.autograd.Function):
    """Attention whose keys and values, and in backward their gradients, go round."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, group: dist.ProcessGroup) -> Tensor:
        out, logsumexp = _ring()._templated_ring_attention(
            group,
            _SEQUENCE,
            _aten._scaled_dot_product_flash_attention_for_cpu,
            *(q, k, v),
            is_causal=True,
            dropout_p=0.0,
        )
        ctx.group = group
        ctx.save_for_backward(q, k, v, out, logsumexp)
        attended: Tensor = out
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, logsumexp = ctx.saved_tensors
        gradients = _ring()._templated_ring_attention_backward(
            ctx.group,
            _SEQUENCE,
            _aten._scaled_dot_product_flash_attention_for_cpu_backward,
            gradient,
            "grad_out",
            *(q, k, v, out, logsumexp),
            is_causal=True,
            dropout_p=0.0,
        )
        return *gradients[:3], None
