"""Models of users: ``own.py:build`` and ``package.module:build``."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bench.workloads.base import Batch
from bench.workloads.errors import InputError
from bench.workloads.sources import calls
from bench.workloads.sources.references import Reference
from bench.workloads.sources.source import SourceWorkload

BATCH = "batch"
"""The function of the model's file that makes the batch, if no other is named."""
_SIZES = ("batch", "seq")
_given = weakref.WeakSet[nn.Module]()
"""Models that functions gave: each must be new."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnWorkload(SourceWorkload):
    """A function that gives a model; its name names it."""

    @property
    def reference(self) -> Reference:
        """The function."""
        return Reference.parse(self.name)

    @property
    def batch_reference(self) -> Reference:
        """The function that makes the batch."""
        where = self.name.rpartition(":")[0]
        return Reference.parse(self.inputs or f"{where}:{BATCH}")

    def references(self) -> Sequence[Reference]:
        """The user's functions, found and not loaded."""
        criterion = [Reference.parse(self.criterion)] if self.criterion else []
        return [self.reference, self.batch_reference, *criterion]

    def make_model(self) -> nn.Module:
        """What the function gives.

        Raises:
            InputError: it raises, or gives something else, or weights without values.
        """
        reference = self.reference
        if isinstance(reference.load(), nn.Module):
            what = "is a model; name a function that makes one"
            raise InputError(f"{reference.path}: {reference.function} {what}")
        model = reference.call(self.arguments_of(reference))
        problem = _problem(model)
        if problem:
            raise InputError(f"{reference.place()}: {reference.function}() gives {problem}")
        _given.add(model)
        return model  # type: ignore[no-any-return]

    def origin(self) -> str:
        """The function."""
        return self.reference.place()

    def default_batch(self) -> Batch:
        """Of the function ``batch`` beside the model's."""
        return self.batch_of(self.batch_reference)

    def option_names(self) -> tuple[str, ...]:
        """Fields and arguments; sizes are arguments that are searched for (``--fit``)."""
        return tuple(dict.fromkeys((*super().option_names(), *_SIZES)))


def _problem(model: Any) -> str:
    """Why it is no model to measure; empty: it is one."""
    if not isinstance(model, nn.Module):
        return f"{type(model).__name__}, not a torch.nn.Module"
    if model in _given:
        return "the same model once more, which may be trained by now; let it build a new one"
    if any(map(is_lazy, model.parameters())):
        return "a model of lazy layers; call it on a batch before it is returned"
    wanted = torch.get_default_device().type == "meta"
    if not wanted and any(map(calls.is_meta, model.parameters())):
        return "a model on the meta device, where no weight has a value"
    return ""


def named(text: str) -> OwnWorkload:
    """The workload of a function.

    Raises:
        ValueError: there is no such file or module.
    """
    name = Reference.parse(text).text
    return OwnWorkload(name=name, summary="a model of a user's", scale="real")
