"""``apply``: put a model under a strategy, in place, and take it out again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from strategies.contract.check import reference_of, verify
from strategies.contract.prepared import MARK, Applied, prepare
from strategies.contract.settled import settled
from strategies.contract.strategy import Strategy
from strategies.execution import release
from strategies.execution.chain import Chain
from strategies.profiling.autocast import Autocast
from strategies.profiling.optimizers import AnyOptimizer, checked, only
from strategies.profiling.step import ExampleStep, detached


def apply(
    model: nn.Module,
    strategy: str | Strategy,
    *,
    blocks: str | Sequence[str] | None = None,
    example: Any = None,
    loss: Callable[[Any], Tensor] | None = None,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    accumulation: bool = False,
    keep_output: bool = True,
    release_gradients: bool = False,
    chain: Chain | None = None,
    compile_blocks: bool | Mapping[str, Any] = False,
    check: bool = False,
    **params: Any,
) -> Applied:
    """Put ``model`` under ``strategy``, in place.

    Parameters stay the same objects, ``state_dict`` keys stay the same, and ``train()``/``eval()``
    keep their meaning; without gradients (``torch.no_grad``) nothing is checkpointed. A user's
    forward hooks on blocks run once a forward; those inside blocks run again when these do. Models
    of the transformers library build no cache of keys and values while gradients are recorded.
    Called under `torch.autocast`, forward and loss of the example run under it, each on its own.

    Args:
        model: any module whose blocks sit in a ``ModuleList`` or ``Sequential``.
        strategy: a name (`strategies.available`), a specification such as ``"every_k(k=4)"``, or a
            `Strategy`.
        blocks: dotted path(s) of the container(s) of blocks, if they are not to be found.
        example: a batch: a tensor, a sequence of arguments, or a mapping of keyword arguments. The
            notes then say which blocks ran on it, and how much of the memory is theirs. Strategies
            that plan by what blocks cost (``needs_profile``) need one: one step runs on it a few
            times, on fake tensors if it does not fit. Gradients, buffers, what modules count and
            collect, and random states are afterwards what they were.
        loss: of the model's output on the example; default: its ``.loss``, or else its sum.
        optimizer: whose update is a part of the step that a budget is of, and whose state counts,
            whether it exists by now or not; a list of those that step after one backward.
        accumulation: the step that a budget is of adds to gradients that exist: several batches
            before an update, or ``zero_grad(set_to_none=False)``.
        keep_output: the training loop holds a step's output until the next step's is there, as
            ``out = model(batch); out.loss.backward()`` in a loop does; a budget is of that.
        release_gradients: update every parameter in backward, as `strategies.release_gradients`
            does with ``optimizer``; a budget is of that, and ``undo()`` ends it.
        chain: instead of ``blocks`` and ``example``: the blocks, with what was found out about
            them before (`strategies.profiled`).
        compile_blocks: call ``block.compile()`` for every block first, with these options: what a
            whole-model compilation does for groups of one block, for groups of any length.
        check: run one step on the example without the strategy and one with it, and compare loss
            and gradients.
        params: the strategy's parameters.

    Returns:
        A handle: ``.plan``, ``.notes``, ``.undo()``; also a context manager.

    Raises:
        ValueError: unknown strategy or parameter, what is no optimizer, or the model is under a
            strategy already.
        Unsupported: the strategy cannot run on this model or its device, or changes its gradient,
            or the optimizer's gradients cannot be released; the model is as it was.
    """
    updating = checked(optimizer)
    if release_gradients:
        _check_release(model, updating, accumulation=accumulation)
    step, settle, autocast = None, None, Autocast.of_now()
    if example is not None:
        loop = (accumulation, keep_output, release_gradients)
        step = ExampleStep(model, detached(example), loss, updating, *loop, autocast)
        settle = functools.partial(settled, step=step, compile_blocks=compile_blocks)
    with autocast.left():
        prepared = prepare(
            model,
            strategy,
            blocks=blocks,
            step=step,
            chain=chain,
            compile_blocks=compile_blocks,
            settle=settle,
            **params,
        )
        reference = reference_of(model, step) if check else None
        applied = prepared.apply(compile_blocks=compile_blocks)
        try:
            if reference is not None and step is not None:
                verify(reference, step, applied.strategy)
            if release_gradients and updating is not None:
                applied.undos.append(release.release_gradients(model, only(updating)).undo)
        except BaseException:
            applied.undo()
            raise
    return applied


def _check_release(model: nn.Module, optimizer: AnyOptimizer | None, *, accumulation: bool) -> None:
    """Before a long profile is made.

    Raises:
        ValueError: there is no optimizer, or gradients are to accumulate.
        Unsupported: see `strategies.release_gradients`; or there are several optimizers.
    """
    if optimizer is None:
        raise ValueError("release_gradients needs the optimizer: optimizer=")
    if accumulation:
        raise ValueError("released gradients do not accumulate: drop accumulation=True")
    release.refuse(model, only(optimizer))


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
