"""A workload whose model comes from elsewhere: from a user's file, or from a library."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import hashlib
import inspect
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import strategies
from bench.workloads.base import Batch, Code, Workload
from bench.workloads.errors import InputError
from bench.workloads.sources import blame, calls
from bench.workloads.sources.references import Reference
from bench.workloads.sources.unpacked import unpacked
from strategies.execution.randoms import Shared

_NUMPY_SEEDS = 1 << 32
_FUNCTIONS = frozenset({"inputs", "criterion"})
_PLAIN = (str, int, float, bool)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceWorkload(Workload):
    """A model from elsewhere; its batch and its loss may be a user's own functions.

    Attributes:
        blocks: Dotted path of the chain's containers; found by structure, if none is given.
        inputs: Function that makes the batch.
        criterion: Function that makes the loss.
        given: Arguments of the user's functions, by name: options that are no fields.
    """

    blocks: str = ""
    inputs: str = ""
    criterion: str = ""
    given: tuple[tuple[str, Any], ...] = ()

    @abc.abstractmethod
    def make_model(self) -> nn.Module:
        """The model, as `build`."""

    @abc.abstractmethod
    def default_batch(self) -> Batch:
        """The batch, where no function is named that makes it."""

    def references(self) -> Sequence[Reference]:
        """The user's functions, found and not loaded."""
        return [Reference.parse(text) for text in (self.inputs, self.criterion) if text]

    def arguments(self) -> Mapping[str, Any]:
        """What the user's functions are called with, as far as they take it."""
        return dict(self.given)

    def asked(self) -> Mapping[str, Any]:
        """Those that one of them must take."""
        return dict(self.given)

    def unusual(self, usual: SourceWorkload, *names: str) -> dict[str, Any]:
        """Fields that are not as usual, where a function makes the batch."""
        values = {name: getattr(self, name) for name in names if self.inputs}
        return {name: v for name, v in values.items() if v != getattr(usual, name)}

    def arguments_of(self, reference: Reference) -> dict[str, Any]:
        """Those that one of them takes."""
        return {name: v for name, v in self.arguments().items() if _takes(reference, name)}

    def build(self) -> nn.Module:
        """The model.

        Raises:
            InputError: the user's code or one of their options is at fault.
        """
        self._check_taken()
        model = self.make_model()
        if self.blocks:
            try:
                strategies.find_chain(model, self.blocks)
            except ValueError as error:
                raise InputError(f"{self.name}: {error}") from error
        return model

    def _check_taken(self) -> None:
        references = self.references()
        for name in self.asked():
            if not any(_takes(one, name) for one in references):
                places = ", ".join(f"{one.function}() at {one.place()}" for one in references)
                raise InputError(f"option {name!r} is taken by none of {places}")

    def model(self) -> nn.Module:
        """The model with its seeded initial weights, in training mode."""
        with _seeded(self.seed):
            return self.build().train()

    def make_batch(self) -> Batch:
        """The batch on the CPU, the same for the same seed."""
        with _seeded(self.seed):
            if not self.inputs:
                return self.default_batch()
            return self.batch_of(Reference.parse(self.inputs))

    def batch_of(self, reference: Reference) -> Batch:
        """What a user's function makes, apart from the graph that it may have been computed by."""
        value = reference.call(self.arguments_of(reference))
        batch = calls.checked_batch(value, reference.place())
        return tree_map_only(Tensor, lambda t: t if t.is_leaf else t.detach(), batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The criterion's; the output's own without one, or else a mean of squares. A scalar."""
        with unpacked(batch):
            if self.criterion:
                return calls.criterion(self.criterion)(model, batch, self.arguments())
            loss = calls.default_loss(calls.call(model, batch))
        return calls.checked_loss(loss, lambda: self.place(model))

    def origin(self) -> str:
        """Who makes the model."""
        return self.name

    def place(self, model: nn.Module) -> str:
        """``file:line`` of the model's ``forward``; who makes it, where PyTorch has that."""
        return calls.place_of_forward(model) or self.origin()

    def blame(self, error: BaseException, model: nn.Module | None) -> InputError:
        """An error that the model has under no strategy, as a sentence that names the place."""
        place = self.place(model) if model is not None else self.origin()
        return blame.sentence(error, place, [one.folder for one in self.references()])

    def code(self) -> Code:
        """The user's files, and what they import from their folder."""
        references = self.references()
        files = [one.path.read_bytes() for one in references]
        return Code(
            modules=tuple(one.module for one in references),
            folders=tuple(folder for one in references for folder in one.folders()),
            facts=" ".join(hashlib.sha256(file).hexdigest() for file in files),
        )

    def with_options(self, **options: Any) -> Workload:
        """A variant; what is no field is an argument of the user's functions.

        Raises:
            ValueError: an impossible value, or nothing that could take it.
        """
        fields = {name: v for name, v in options.items() if name in self.field_names()}
        more = {name: _plain(name, v) for name, v in options.items() if name not in fields}
        for name in _FUNCTIONS & fields.keys():
            fields[name] = fields[name] and Reference.parse(str(fields[name])).text
        given = {**dict(self.given), **more}
        workload = super().with_options(**fields)
        assert isinstance(workload, SourceWorkload)
        if more and not workload.references():
            super().with_options(**more)  # raises, and says what is valid
        return dataclasses.replace(workload, given=tuple(sorted(given.items())))

    def field_names(self) -> tuple[str, ...]:
        """Options that are fields."""
        return tuple(name for name in super().option_names() if name != "given")

    def option_names(self) -> tuple[str, ...]:
        """Fields that a user may set, and what their functions are given."""
        return tuple(dict.fromkeys((*self.field_names(), *dict(self.given))))

    def options(self) -> dict[str, Any]:
        """The options' values, for the record; functions and blocks only where they are named."""
        fields = {name: getattr(self, name) for name in self.field_names()}
        return {**{name: v for name, v in fields.items() if v != ""}, **dict(self.given)}


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """PyTorch's, Python's and numpy's shared generators begin at a seed; then they are put back."""
    shared = Shared(full=True)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % _NUMPY_SEEDS)
            yield
    finally:
        shared.restore()


def _takes(reference: Reference, name: str) -> bool:
    parameters = reference.parameters()
    return name in parameters or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )


def _plain(name: str, value: Any) -> Any:
    if not isinstance(value, _PLAIN):
        raise ValueError(f"option {name} must be one number, true, false or text, not {value!r}")  # noqa: TRY004 - input
    return value
