"""Hooks for saved tensors: laid on top of those that are there, and lifted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Self

from torch import Tensor
from torch._C import _autograd
from torch.utils import checkpoint as torch_checkpoint

_USER_HOOKS = "_user_hooks"
Hooks = tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]


class Laid:
    """Hooks for saved tensors on top of those that are there, until its end."""

    __slots__ = ("layers",)

    def __init__(self, *hooks: Hooks) -> None:
        self.layers: list[tuple[dict[str, Any], Any]] = []
        for pair in hooks:
            self.add(pair)

    def add(self, hooks: Hooks) -> None:
        """Lay a pair on top."""
        own = vars(hooks[0])
        self.layers.append((own, own.get(_USER_HOOKS, own)))
        if own.get("_checkpoint_internal"):  # PyTorch 2.14: they know the user's hooks below
            own[_USER_HOOKS] = vars(torch_checkpoint)["_current_user_saved_tensors_hooks"]()
        _autograd._push_saved_tensors_default_hooks(*hooks)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Take them away."""
        while self.layers:
            own, before = self.layers.pop()
            _autograd._pop_saved_tensors_default_hooks()
            if before is not own:
                own[_USER_HOOKS] = before
            else:
                own.pop(_USER_HOOKS, None)


def top() -> Hooks:
    """The hooks on top."""
    hooks: Hooks = _autograd._top_saved_tensors_default_hooks(False)
    return hooks


@contextlib.contextmanager
def lifted() -> Iterator[Hooks]:
    """The hooks on top, taken away for as long."""
    hooks = top()
    _autograd._pop_saved_tensors_default_hooks()
    try:
        yield hooks
    finally:
        _autograd._push_saved_tensors_default_hooks(*hooks)
