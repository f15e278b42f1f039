"""Stands in for a module's ``forward``, on the instance.

An object rather than a closure, so that a model under a strategy can be copied, saved, and
replicated over devices: it knows the module, and the class's own ``forward`` by name only.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import CodeType
from typing import Any, Self

from torch import nn

from strategies.execution.undo import RestoreAttribute, Undo

COMPILED = "_compiled_call_impl"
"""What ``module.compile()`` sets, and a call of the module runs before anything else."""
_REPLICATE = "_replicate_for_data_parallel"


class StandIn:
    """What a module's instance has for ``forward`` while it is under a strategy.

    Attributes:
        module: whose ``forward``.
        entry: the attribute that it is put under.
        inner: what the instance had there before; ``None``: nothing but its class's ``forward``.
    """

    def __init__(self, module: nn.Module, entry: str = "forward") -> None:
        self.module, self.entry = module, entry
        self.inner: Callable[..., Any] | None = module.__dict__.get(entry)

    @staticmethod
    def outermost(module: nn.Module) -> str:
        """The entry that a compiler does not trace: ``block.compile()`` compiles ``forward``."""
        return COMPILED if module.__dict__.get(COMPILED) is not None else "forward"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own ``forward``."""
        return self.original(*args, **kwargs)

    @property
    def original(self) -> Callable[..., Any]:
        """What the module's ``forward`` was."""
        if self.inner is None:
            return functools.partial(type(self.module).forward, self.module)
        return self.inner

    @property
    def __signature__(self) -> inspect.Signature:
        """Of the module's own ``forward``: trainers look at it."""
        return inspect.signature(self.original)

    @property
    def __code__(self) -> CodeType:
        """Of the module's own ``forward``: ``torch.export`` looks at it."""
        function: Any = self.original
        while isinstance(function, functools.partial):
            function = function.func
        code: CodeType = function.__code__
        return code

    def on(self, module: nn.Module) -> Self:
        """The same for a replica of the module."""
        other = copy.copy(self)
        other.module = module
        if isinstance(self.inner, StandIn):
            other.inner = self.inner.on(module)
        return other

    def install(self) -> Undo:
        """Put it in place; returns how to undo it."""
        own = self.module.__dict__
        before = [RestoreAttribute.of(self.module, name) for name in (self.entry, _REPLICATE)]
        own[self.entry], own[_REPLICATE] = self, Replicate(self.module)
        return RestoreForward(*before)


@dataclasses.dataclass
class Replicate:
    """How ``DataParallel`` copies a module: the copy's ``forward`` must run the copy's weights."""

    module: nn.Module

    def __call__(self) -> nn.Module:
        """A shallow copy."""
        replica: nn.Module = type(self.module)._replicate_for_data_parallel(self.module)
        for entry in ("forward", COMPILED):
            if isinstance(stand_in := replica.__dict__.get(entry), StandIn):
                replica.__dict__[entry] = stand_in.on(replica)
        return replica


@dataclasses.dataclass
class RestoreForward(Undo):
    """Puts back what a stand-in took the place of."""

    entry: RestoreAttribute
    replicate: RestoreAttribute

    def __call__(self) -> None:
        """Put it back."""
        self.entry()
        self.replicate()


def compile_all(modules: Iterable[nn.Module], options: bool | Mapping[str, Any]) -> list[Undo]:
    """Compile modules, in place, each once; returns how to undo it.

    Args:
        modules: what is compiled.
        options: of ``module.compile``; ``False``: nothing is.
    """
    if options is False:
        return []
    return [_compiled(each, {} if options is True else options) for each in dict.fromkeys(modules)]


def _compiled(module: nn.Module, options: Mapping[str, Any]) -> Undo:
    undo = RestoreAttribute.of(module, COMPILED)
    module.compile(**options)
    return undo
