"""One checkpoint around one call, by ``torch.utils.checkpoint`` (non-reentrant)."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from strategies.execution.contexts import Contexts, Pair
from strategies.execution.undo import Undo, replace_forward
from strategies.storage import Storage


def recompute(
    call: Callable[..., Any],
    modules: Sequence[nn.Module],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    more: Callable[[], Pair] | None = None,
) -> Any:
    """Run ``call`` under one checkpoint; a plain call where no gradient is recorded.

    Args:
        call: what to run.
        modules: that it runs.
        args: its positional arguments.
        kwargs: its keyword arguments.
        more: contexts of forward and of recompute, innermost.
    """
    if not torch.is_grad_enabled():
        return call(*args, **kwargs)
    # Bound here, a block's own keywords cannot be taken for ones of `checkpoint`.
    bound = functools.partial(call, **kwargs)
    return checkpoint(bound, *args, use_reentrant=False, context_fn=Contexts(modules, more))


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What a block is called with; the boundary, its first argument, is always positional.

    Checkpointing saves positional tensors through autograd (where a hook can reach them) but
    refers to keyword tensors directly, so a boundary that comes by keyword is made positional.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    keyword: str | None = None

    @classmethod
    def of(
        cls, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments:
        """Those of one call; of keywords alone, the boundary is the first that is declared."""
        if args or not kwargs:
            return cls(args, kwargs)
        declared = inspect.signature(forward).parameters
        keyword = next((name for name in declared if name in kwargs), next(iter(kwargs)))
        others = {name: value for name, value in kwargs.items() if name != keyword}
        return cls((kwargs[keyword],), others, keyword)

    def bind(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call`` with its boundary by position."""
        return call if self.keyword is None else _ByKeyword(call, self.keyword)


class _ByKeyword:
    """Calls with the first positional argument given by its keyword."""

    def __init__(self, call: Callable[..., Any], name: str) -> None:
        self.call, self.name = call, name

    def __call__(self, boundary: Any, /, **kwargs: Any) -> Any:
        return self.call(**{self.name: boundary}, **kwargs)


def recompute_stored(
    storage: Storage | None,
    call: Callable[..., Any],
    modules: Sequence[nn.Module],
    given: Arguments,
) -> Any:
    """`recompute`, with the boundary kept by ``storage`` between forward and backward."""
    if storage is None or not torch.is_grad_enabled():
        return recompute(call, modules, given.args, given.kwargs)
    parts, spec = tree_flatten(given.args[:1])
    call = _Gathered(call, len(parts), spec)
    with storage.keep(parts):
        return recompute(call, modules, (*parts, *given.args[1:]), given.kwargs)


class _Gathered:
    """Puts a boundary of several tensors together again: a hook reaches none inside a tuple."""

    def __init__(self, call: Callable[..., Any], count: int, spec: TreeSpec) -> None:
        self.call, self.count, self.spec = call, count, spec

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        boundary = tree_unflatten(args[: self.count], self.spec)
        return self.call(*boundary, *args[self.count :], **kwargs)


class CheckpointedForward:
    """Stands in for ``module.forward`` and runs it under one checkpoint."""

    def __init__(self, module: nn.Module, storage: Storage | None) -> None:
        self.module, self.storage = module, storage
        self.original: Callable[..., Any] = module.forward
        functools.update_wrapper(self, module.forward, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own ``forward``."""
        given = Arguments.of(self.original, args, kwargs)
        call = given.bind(self.original)
        return recompute_stored(self.storage, call, [self.module], given)


def checkpoint_module(module: nn.Module, storage: Storage | None = None) -> Undo:
    """Put one module under one checkpoint."""
    return replace_forward(module, CheckpointedForward(module, storage))
