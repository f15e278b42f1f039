"""Matrix products split over ranks, as Megatron-LM splits them; optionally the sequence, too.

Shoeybi et al. 2019 (arXiv 1909.08053): of attention and MLP, the first product is split by columns,
the second by rows, and a sum over ranks ends each. Korthikanti et al. 2022 (arXiv 2205.05198) also
split what lies between by the sequence: a product gathers its input, *saves its own part alone*,
and gathers again in backward. DTensor's sequence parallelism saves the gathered input.
"""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

Group: TypeAlias = dist.ProcessGroup
# Since PyTorch 2.13 under new names.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)

COLUMNS = {"c_attn": 3, "c_fc": 1}
"""Products split by columns, and how many equal ones lie side by side in each."""
ROWS = ("c_proj",)


def split(blocks: list[nn.Module], group: Group, *, sequence: bool) -> None:
    """Let each rank of ``group`` keep and compute its part of every block, in place.

    Args:
        blocks: of a model, named as in `bench.workloads.layers`; what lies outside of them is
            computed by each rank.
        group: that splits.
        sequence: whether ranks hold parts of the sequence between products.

    Raises:
        ValueError: a model with other names, or sizes that the ranks do not divide.
    """
    if not blocks or not all(_names(block) >= {*COLUMNS, *ROWS} for block in blocks):
        raise ValueError(f"only models with {', '.join((*COLUMNS, *ROWS))} in each block are split")
    for block in blocks:
        _split_block(block, group, sequence=sequence)
    if sequence:
        blocks[0].register_forward_pre_hook(
            lambda _, given: (_apply(_Scattered, given[0], group), *given[1:])
        )
        blocks[-1].register_forward_hook(lambda _, __, out: _apply(_Gathered, out, group))


def _names(block: nn.Module) -> set[str]:
    return {name.rpartition(".")[2] for name, _ in block.named_modules()}


def _split_block(block: nn.Module, group: Group, *, sequence: bool) -> None:
    for parent in list(block.modules()):
        heads = getattr(parent, "heads", None)
        if isinstance(heads, int):
            parent.__dict__["heads"] = _share(heads, group)
        for name, child in list(parent.named_children()):
            part = _part_of(name, child, group, sequence=sequence)
            if part is not None:
                setattr(parent, name, part)


def _part_of(name: str, child: nn.Module, group: Group, *, sequence: bool) -> nn.Module | None:
    if name in COLUMNS:
        return Column(cast("nn.Linear", child), group, COLUMNS[name], sequence=sequence)
    if name in ROWS:
        return Row(cast("nn.Linear", child), group, sequence=sequence)
    if sequence and isinstance(child, nn.LayerNorm):
        return SharedNorm(child, group)
    return None


def _share(size: int, group: Group) -> int:
    """A rank's part of a size."""
    if size % group.size():
        raise ValueError(f"{group.size()} ranks do not divide {size}")
    return size // group.size()


def _slice(weight: Tensor, dim: int, group: Group, pieces: int = 1) -> nn.Parameter:
    """A rank's part of ``weight`` along ``dim``, of each of ``pieces`` that lie side by side."""
    size = _share(weight.shape[dim] // pieces, group)
    parts = weight.detach().unflatten(dim, (pieces, -1))
    own = parts.narrow(dim + 1, group.rank() * size, size)
    return nn.Parameter(own.flatten(dim, dim + 1).clone())


class Column(nn.Module):
    """A rank's columns of a linear layer's result."""

    def __init__(self, whole: nn.Linear, group: Group, pieces: int, *, sequence: bool) -> None:
        super().__init__()
        self.weight = _slice(whole.weight, 0, group, pieces)
        self.bias = _slice(whole.bias, 0, group, pieces)
        self.group, self.sequence = group, sequence

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, in]``, or of the sequence split in t ``[B, T/t, in]``, to ``[B, T, out/t]``."""
        if self.sequence:
            return _apply(_GatheredLinear, x, self.weight, self.bias, self.group)
        return F.linear(_apply(_Copied, x, self.group), self.weight, self.bias)


class Row(nn.Module):
    """A rank's rows of a linear layer; the ranks' results are summed."""

    def __init__(self, whole: nn.Linear, group: Group, *, sequence: bool) -> None:
        super().__init__()
        self.weight = _slice(whole.weight, 1, group)
        self.bias = whole.bias
        self.group, self.sequence = group, sequence

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, in/t]`` to ``[B, T, out]``, or of the sequence split in t ``[B, T/t, out]``."""
        part = F.linear(x, self.weight)
        if self.sequence:
            bias = _apply(_Copied, self.bias, self.group)
            return _apply(_Reduced, part, self.group) + bias
        return _apply(_Summed, part, self.group) + self.bias


class SharedNorm(nn.Module):
    """A layer norm of a part of the sequence; its weights' gradients are summed over ranks."""

    def __init__(self, whole: nn.LayerNorm, group: Group) -> None:
        super().__init__()
        self.weight, self.bias = whole.weight, whole.bias
        self.eps, self.group = whole.eps, group

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        weight, bias = (_apply(_Copied, p, self.group) for p in (self.weight, self.bias))
        return F.layer_norm(x, self.weight.shape, weight, bias, self.eps)


# Collectives of forward, with those that backward needs.


def _sum(tensor: Tensor, group: Group) -> Tensor:
    """The sum over ranks, in place."""
    dist.all_reduce(tensor, group=group)
    return tensor


def _gather(part: Tensor, group: Group) -> Tensor:
    """All parts of the sequence: ``[B, T/t, d]`` to ``[B, T, d]``."""
    own = part.transpose(0, 1).contiguous()
    whole = own.new_empty((own.shape[0] * group.size(), *own.shape[1:]))
    _all_gather(whole, own, group=group)
    return whole.transpose(0, 1)


def _reduce(whole: Tensor, group: Group) -> Tensor:
    """A rank's part of the sequence, summed: ``[B, T, d]`` to ``[B, T/t, d]``."""
    given = whole.transpose(0, 1).contiguous()
    part = given.new_empty((_share(given.shape[0], group), *given.shape[1:]))
    _reduce_scatter(part, given, group=group)
    return part.transpose(0, 1)


def _own(whole: Tensor, group: Group) -> Tensor:
    """A rank's part of the sequence, in memory of its own."""
    size = _share(whole.shape[1], group)
    return whole.narrow(1, group.rank() * size, size).clone()


def _apply(function: Any, *given: Any) -> Tensor:
    return cast("Tensor", function.apply(*given))


class _Collective(torch.autograd.Function):
    """Of one tensor, with a group; saves nothing."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        del output
        ctx.group = inputs[1]


class _Copied(_Collective):
    """Every rank has it; its gradient is the sum of theirs."""

    @staticmethod
    def forward(x: Tensor, group: Group) -> Tensor:
        del group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _sum(gradient.clone(), ctx.group), None


class _Summed(_Collective):
    """The sum over ranks; each has its gradient."""

    @staticmethod
    def forward(x: Tensor, group: Group) -> Tensor:
        return _sum(x.clone(), group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        del ctx
        return gradient, None


class _Reduced(_Collective):
    """A rank's part of the sequence of the sum."""

    @staticmethod
    def forward(x: Tensor, group: Group) -> Tensor:
        return _reduce(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _gather(gradient, ctx.group), None


class _Gathered(_Collective):
    """The whole sequence, which every rank goes on with alike."""

    @staticmethod
    def forward(x: Tensor, group: Group) -> Tensor:
        return _gather(x, group).clone()  # FSDP2 watches what a block returns, if it is no view

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _own(gradient, ctx.group), None


class _Scattered(_Collective):
    """A rank's part of a sequence that every rank has."""

    @staticmethod
    def forward(x: Tensor, group: Group) -> Tensor:
        return _own(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _gather(gradient, ctx.group), None


class _GatheredLinear(torch.autograd.Function):
    """A linear layer of the whole sequence that saves the rank's own part of it."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, weight: Tensor, bias: Tensor, group: Group) -> Tensor:
        ctx.save_for_backward(part, weight)
        ctx.group = group
        return F.linear(_gather(part, group), weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        part, weight = ctx.saved_tensors
        of_input = _reduce(gradient @ weight, ctx.group)
        rows = gradient.flatten(0, 1)
        of_weight = rows.t() @ _gather(part, ctx.group).flatten(0, 1)
        return of_input, of_weight, rows.sum(0), None
