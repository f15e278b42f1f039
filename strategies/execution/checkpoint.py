"""One checkpoint around one call, by ``torch.utils.checkpoint`` (non-reentrant)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch.utils._pytree import TreeSpec, tree_unflatten
from torch.utils.checkpoint import checkpoint, noop_context_fn

from strategies.execution.contexts import Pair, Watched
from strategies.execution.frames import framed
from strategies.execution.recording import is_recorded
from strategies.execution.state import BlockState, WatchingStandIn
from strategies.execution.tensors import boundary_of, flat
from strategies.execution.undo import Undo
from strategies.storage import Storage


class Call:
    """A call with containers or keywords, to be repeated from the leaves of its arguments.

    The first time, with the arguments themselves, which it may write to (a list of all hidden
    states); again, with new containers of the same leaves.
    """

    def __init__(self, function: Callable[..., Any], spec: TreeSpec, *first: Any) -> None:
        self.function, self.spec = function, spec
        self.first: tuple[Any, ...] | None = first

    def __call__(self, *leaves: Any) -> Any:
        """Run it."""
        first, self.first = self.first, None
        args, kwargs = first or tree_unflatten(leaves, self.spec)
        return self.function(*args, **kwargs)


def recompute(
    function: Callable[..., Any],
    state: BlockState | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    more: Callable[[], Pair] | None = None,
    *,
    exact: bool = True,
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
        exact: what runs again gets what it got, to the bit.
    """
    if not is_recorded():
        return function(*args, **kwargs)
    if torch.compiler.is_compiling():  # which sees what is written in place
        return checkpoint(functools.partial(function, **kwargs), *args, use_reentrant=False)
    leaves, spec = flat(args, kwargs)
    if spec is not None:
        function = Call(function, spec, args, kwargs)
    contexts = Watched(state, leaves, more) if state else more or noop_context_fn
    if get_eval_frame_callback() is not None:  # it would compile what runs, and not what runs again
        return checkpoint(function, *leaves, use_reentrant=False, context_fn=contexts)
    return framed(function, leaves, contexts, state.unexamined if state and exact else None)


class CheckpointedForward(WatchingStandIn):
    """Runs a module under one checkpoint."""

    def __init__(self, module: nn.Module, storage: Storage | None) -> None:
        super().__init__(module)
        self.storage = storage

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own ``forward``."""
        if self.storage is None or not is_recorded():
            return recompute(self.original, self.state, args, kwargs)
        with self.storage.keep(boundary_of(self, args, kwargs)):
            exact = self.storage.codec.exact
            return recompute(self.original, self.state, args, kwargs, exact=exact)


def checkpoint_module(module: nn.Module, storage: Storage | None = None) -> Undo:
    """Put one module under one checkpoint."""
    return CheckpointedForward(module, storage).install()
