"""``apply``: put a model under a strategy, in place, and take it out again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from strategies.contract.prepared import MARK, Applied, prepare
from strategies.contract.strategy import Strategy
from strategies.execution.chain import Chain


def apply(
    model: nn.Module,
    strategy: str | Strategy,
    *,
    blocks: str | Sequence[str] | None = None,
    example: Any = None,
    loss: Callable[[Any], Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    chain: Chain | None = None,
    compile_blocks: bool | Mapping[str, Any] = False,
    **params: Any,
) -> Applied:
    """Put ``model`` under ``strategy``, in place.

    Parameters stay the same objects, ``state_dict`` keys stay the same, and ``train()``/``eval()``
    keep their meaning; without gradients (``torch.no_grad``) nothing is checkpointed. Forward hooks
    on blocks that share a recompute group run again when the group is recomputed. Models of the
    transformers library build no cache of keys and values while gradients are recorded.

    Args:
        model: any module whose blocks sit in a ``ModuleList`` or ``Sequential``.
        strategy: a name (`strategies.available`), a specification such as ``"every_k(k=4)"``, or a
            `Strategy`.
        blocks: dotted path(s) of the container(s) of blocks, if they are not to be found.
        example: a batch, for strategies that plan by what the blocks cost (``needs_profile``): a
            tensor, a sequence of arguments, or a mapping of keyword arguments. One step runs on it
            a few times, on fake tensors if it does not fit; gradients, buffers and random states
            are afterwards what they were.
        loss: of the model's output on the example; default: its ``.loss``, or else its sum.
        optimizer: whose state counts into a budget, as far as it exists by now.
        chain: instead of ``blocks`` and ``example``: the blocks, with what was found out about
            them before (`strategies.profiled`).
        compile_blocks: call ``block.compile()`` for every block first, with these options: what a
            whole-model compilation does for groups of one block, for groups of any length.
        params: the strategy's parameters.

    Returns:
        A handle: ``.plan``, ``.notes``, ``.undo()``; also a context manager.

    Raises:
        ValueError: unknown strategy or parameter, or the model is under a strategy already.
        Unsupported: the strategy cannot run on this model or its device.
    """
    return prepare(
        model,
        strategy,
        blocks=blocks,
        example=example,
        loss=loss,
        optimizer=optimizer,
        chain=chain,
        **params,
    ).apply(compile_blocks=compile_blocks)


def undo(model: nn.Module) -> nn.Module:
    """Take ``model`` out of the strategy that it is under.

    Raises:
        ValueError: it is under none.
    """
    applied = model.__dict__.get(MARK)
    if applied is None:
        raise ValueError("the model is under no strategy")
    applied.undo()
    return model
