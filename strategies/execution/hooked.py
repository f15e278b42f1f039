"""Which hooks of a block run when the block runs again.

Its user's do not: what they record they have recorded, and what they changed of arguments, outputs
and attributes is kept. Those that gather parameters must: FSDP's, and others' where there are none.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from torch import nn

_PLACES = ("_forward_pre_hooks", "_forward_hooks")
_GATHERING = "torch.distributed."


def call_again(block: nn.Module, args: Any, kwargs: Any) -> None:
    """Call a block as a module, without the hooks that are done."""
    if not (block._forward_pre_hooks or block._forward_hooks):
        block(*args, **kwargs)
        return
    with _without_users(block):
        block(*args, **kwargs)


@contextlib.contextmanager
def _without_users(block: nn.Module) -> Iterator[None]:
    """The block without its user's forward hooks, for as long."""
    own = block.__dict__
    before = {place: own[place] for place in _PLACES}
    if all(parameter.numel() for parameter in block.parameters()):  # DeepSpeed's are away
        for place, hooks in before.items():
            kept = {number: hook for number, hook in hooks.items() if _gathers(hook)}
            own[place] = type(hooks)(kept)
    try:
        yield
    finally:
        own.update(before)


def _gathers(hook: Any) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    return (getattr(hook, "__module__", None) or "").startswith(_GATHERING)
