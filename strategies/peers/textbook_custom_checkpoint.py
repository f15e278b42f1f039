"""The textbook's own autograd function."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from strategies.contract.peer import Listing


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextbookCustomCheckpoint(Listing):
    """``CustomCheckpoint`` of the chapter's section *Custom Checkpointing*, line by line.

    Its backward asks for the gradients of the block's arguments alone, so that none reaches a
    parameter of the block; it restores no random state; it hands back one output, and takes
    positional tensors only.
    """

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """``CustomCheckpoint.apply(layer, x)``; a keyword fails, as there."""
        return CustomCheckpoint.apply(function, *args, **kwargs)  # type: ignore[no-untyped-call]


class CustomCheckpoint(torch.autograd.Function):
    """As the textbook prints it."""

    @staticmethod
    def forward(ctx: Any, run_function: Callable[..., Any], *args: Tensor) -> Any:
        """Run without a graph; keep the arguments."""
        ctx.run_function = run_function
        ctx.save_for_backward(*args)
        with torch.no_grad():
            return run_function(*args)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        """Run again with a graph, and take the gradients of the arguments."""
        args = ctx.saved_tensors
        with torch.enable_grad():
            detached_args = [a.detach().requires_grad_() for a in args]
            output = ctx.run_function(*detached_args)
        grads = torch.autograd.grad(output, detached_args, grad_output)
        return (None, *grads)
