"""One checkpoint around one call, by ``torch.utils.checkpoint`` (non-reentrant)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch._compile import _disable_dynamo
from torch.utils.checkpoint import checkpoint

from strategies.execution.framed import framed
from strategies.execution.met import Pair
from strategies.execution.recording import is_exported, is_recorded, is_transformed
from strategies.execution.state import BlockState, WatchingStandIn
from strategies.execution.tensors import boundary_of
from strategies.execution.undo import Undo
from strategies.storage import Storage

_uncompiled = _disable_dynamo(framed)


def recompute(
    function: Callable[..., Any],
    state: BlockState | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    more: Callable[[], Pair] | None = None,
) -> Any:
    """Run ``function`` under one checkpoint; a plain call where no gradient is recorded.

    Every tensor among the arguments, by keyword or in a container, is saved through autograd: hooks
    reach it, and a change in place is an error.

    Args:
        function: what to run.
        state: of the block that it runs, if it runs one.
        args: its positional arguments.
        kwargs: its keyword arguments.
        more: contexts of forward and of recompute, innermost.
    """
    if not torch.is_grad_enabled():
        return function(*args, **kwargs)
    if torch.compiler.is_compiling():
        return _compiled(function, args, kwargs)
    if is_transformed():
        return function(*args, **kwargs)
    if get_eval_frame_callback() is not None:  # it would compile what runs, not what runs again
        return _uncompiled(function, state, args, kwargs, more)
    return framed(function, state, args, kwargs, more)


def _compiled(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As a compiler traces it, which sees itself what is written in place."""
    if is_exported():
        return function(*args, **kwargs)
    return checkpoint(functools.partial(function, **kwargs), *args, use_reentrant=False)


class CheckpointedForward(WatchingStandIn):
    """Runs a module under one checkpoint."""

    def __init__(self, module: nn.Module, storage: Storage | None) -> None:
        super().__init__(module)
        self.storage = storage
        self.state.is_exact = storage is None or storage.codec.exact

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own ``forward``."""
        if self.storage is None:
            return recompute(self.original, self.state, args, kwargs)
        if not is_recorded():
            return self.original(*args, **kwargs)
        with self.storage.keep(boundary_of(self, args, kwargs)):
            return recompute(self.original, self.state, args, kwargs)


def checkpoint_module(module: nn.Module, storage: Storage | None = None) -> Undo:
    """Put one module under one checkpoint."""
    return CheckpointedForward(module, storage).install()
