"""Models of users: ``own.py:build`` and ``package.module:build``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from bench.workloads.base import Batch
from bench.workloads.errors import InputError
from bench.workloads.sources import calls
from bench.workloads.sources.references import Reference
from bench.workloads.sources.source import SourceWorkload

BATCH = "batch"
"""The function of the model's file that makes the batch, if no other is named."""
_SIZES = ("batch", "seq")


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
        if not isinstance(model, nn.Module):
            kind = type(model).__name__
            raise InputError(
                f"{reference.place()}: {reference.function}() gives {kind}, not a torch.nn.Module"
            )
        wanted = torch.get_default_device().type == "meta"
        if not wanted and any(map(calls.is_meta, model.parameters())):
            raise InputError(
                f"{reference.place()}: {reference.function}() gives a model on the meta device,"
                " where no weight has a value"
            )
        return model

    def default_batch(self) -> Batch:
        """Of the function ``batch`` beside the model's."""
        return self.batch_of(self.batch_reference)

    def option_names(self) -> tuple[str, ...]:
        """Fields and arguments; sizes are arguments that are searched for (``--fit``)."""
        return tuple(dict.fromkeys((*super().option_names(), *_SIZES)))


def named(text: str) -> OwnWorkload:
    """The workload of a function.

    Raises:
        ValueError: there is no such file or module.
    """
    name = Reference.parse(text).text
    return OwnWorkload(name=name, summary="a model of a user's", scale="real")
