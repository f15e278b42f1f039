"""Changes to modules that can be undone."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, Self

from torch import nn


class Undo(Protocol):
    """Puts one thing back as it was. An object, not a closure, so that a model can be copied."""

    def __call__(self) -> None:
        """Put it back."""


class Handle(abc.ABC):
    """Of changes; as a context manager, it undoes them at the end."""

    @abc.abstractmethod
    def undo(self) -> object:
        """Put everything back; a second call does nothing."""

    def __enter__(self) -> Self:
        """The handle itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Undo."""
        self.undo()


def undo_all(undos: list[Undo]) -> None:
    """Put everything back, the last change first; the list is empty afterwards."""
    while undos:
        undos.pop()()


@contextlib.contextmanager
def undone_on_error(undos: list[Undo]) -> Iterator[None]:
    """What has been changed so far is put back if a later change fails."""
    try:
        yield
    except BaseException:
        undo_all(undos)
        raise


@contextlib.contextmanager
def installed(install: Callable[[], Iterable[Undo]]) -> Iterator[None]:
    """Something installed, and undone at the end."""
    undos = list(install())
    try:
        yield
    finally:
        undo_all(undos)


@dataclasses.dataclass
class RestoreAttribute(Undo):
    """Puts back an instance attribute, or its absence."""

    owner: Any
    name: str
    existed: bool
    value: Any

    @classmethod
    def of(cls, owner: Any, name: str) -> RestoreAttribute:
        """Remember ``owner.name`` as it is on the instance now."""
        return cls(owner, name, name in owner.__dict__, owner.__dict__.get(name))

    def __call__(self) -> None:
        """Put it back."""
        if self.existed:
            self.owner.__dict__[self.name] = self.value
        else:
            self.owner.__dict__.pop(self.name, None)


def replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Undo:
    """Give this one instance another ``forward``; returns how to undo it."""
    undo = RestoreAttribute.of(module, "forward")
    module.__dict__["forward"] = forward
    return undo
