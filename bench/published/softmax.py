"""Softmax as it was before PyTorch 1.11: its input was kept for backward, which did not read it.

https://github.com/pytorch/pytorch/issues/49600
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F


class _KeepsInput(torch.autograd.Function):
    """``torch.softmax`` that saves two tensors."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, dim: int) -> Tensor:
        """Any shape to the same."""
        out = torch.softmax(scores, dim)
        ctx.save_for_backward(scores, out)
        ctx.dim = dim
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        """By the output alone."""
        scores, out = ctx.saved_tensors
        (gradient,) = gradients
        back = torch.ops.aten._softmax_backward_data.default
        return back(gradient, out, ctx.dim, scores.dtype), None


def _softmax(scores: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.float32
    out: Tensor = _KeepsInput.apply(scores if dtype is None else scores.to(dtype), dim)  # type: ignore[no-untyped-call]
    return out


@contextlib.contextmanager
def keeping_input() -> Iterator[None]:
    """Within, who calls ``torch.nn.functional.softmax`` gets the older one."""
    with mock.patch.object(F, "softmax", _softmax):
        yield
