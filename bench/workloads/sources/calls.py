"""How a model from elsewhere is called, and what its loss is."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bench.workloads.base import Batch
from bench.workloads.errors import InputError
from bench.workloads.sources import blame
from bench.workloads.sources.references import Reference

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
MODEL = "model"
"""A loss whose first parameter has this name calls the model itself."""


def call(model: nn.Module, batch: Batch) -> Any:
    """The model's output: a tensor is its argument, a sequence its arguments, a mapping by name."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def checked_batch(value: Any, place: str) -> Batch:
    """What a user's function gives, if it is a batch.

    Raises:
        InputError: it is none, or holds no tensors, or such as have no values.
    """
    batch = dict(value) if isinstance(value, Mapping) else value
    if not isinstance(batch, (Tensor, tuple, list, dict)):
        hint = "; give one of what it yields" if isinstance(value, Iterable) else ""
        raise InputError(
            f"{place}: the batch must be a tensor, a tuple or list of them, or a mapping of"
            f" arguments, not {type(value).__name__}{hint}"
        )
    if not _tensors(batch):
        raise InputError(f"{place}: the batch holds no tensor")
    if any(map(is_meta, _tensors(batch))):
        raise InputError(f"{place}: the batch is on the meta device, where nothing has a value")
    return batch


def is_meta(tensor: Tensor) -> bool:
    """Whether it has a shape and no values."""
    return tensor.device.type == "meta"


def default_loss(output: Any) -> Tensor | None:
    """The loss that an output suggests.

    Returns:
        ``output.loss`` or ``output["loss"]``; of an output without one, its only floating-point
        tensor with a gradient if that is one number, or else the mean squares of all of these,
        summed; ``None`` if there are none. Without gradients every floating-point tensor counts.
    """
    named = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(named, Tensor):
        return named
    wanted = torch.is_grad_enabled()
    floats = [t for t in _tensors(output) if t.is_floating_point() and t.requires_grad >= wanted]
    if len(floats) == 1 and floats[0].numel() == 1:
        return floats[0]
    return torch.stack([t.float().square().mean() for t in floats]).sum() if floats else None


def checked_loss(loss: Any, place: Callable[[], str]) -> Tensor:
    """The loss as a scalar.

    Raises:
        InputError: it is not one number, or no parameter gets a gradient from it.
    """
    problem = _problem(loss)
    if problem:
        raise InputError(f"{place()}: the loss must be one number, not {problem}")
    assert isinstance(loss, Tensor)
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise InputError(f"{place()}: the loss depends on no parameter that is trained")
    return loss.reshape(()) if loss.dim() else loss


def _problem(loss: Any) -> str:
    if loss is None:
        return "nothing: no floating-point tensor of the output depends on what is trained"
    if not isinstance(loss, Tensor):
        return type(loss).__name__
    if loss.numel() != 1:
        return f"a tensor of shape {tuple(loss.shape)}"
    return "" if loss.is_floating_point() else f"of {loss.dtype}"


def place_of_forward(model: nn.Module) -> str | None:
    """``file:line`` of the model's ``forward``; ``None``: it is PyTorch's, or has no source."""
    return blame.place_of(inspect.unwrap(type(model).forward))


@dataclasses.dataclass(frozen=True)
class Criterion:
    """A user's loss, ready to be called in a timed step.

    Attributes:
        function: takes the output, output and batch, or model and batch.
        place: ``file:line`` of it.
        parameters: the names of what it is called with, in order.
        options: the names of what it takes besides.
    """

    function: Callable[..., Any]
    place: str
    parameters: tuple[str, ...]
    options: frozenset[str]

    def __call__(self, model: nn.Module, batch: Batch, given: Mapping[str, Any]) -> Tensor:
        """The loss, a scalar; of what is given it gets what it takes."""
        options = {name: value for name, value in given.items() if name in self.options}
        if self.parameters[:1] == (MODEL,):
            loss = self.function(model, batch, **options)
        else:
            both = (call(model, batch), batch)
            loss = self.function(*both[: len(self.parameters)], **options)
        return checked_loss(loss, lambda: self.place)


@functools.lru_cache(maxsize=8)
def criterion(text: str) -> Criterion:
    """The loss that a reference names, loaded.

    Raises:
        InputError: it cannot be loaded, or takes no output.
    """
    reference = Reference.parse(text)
    function, taken = reference.load(), reference.parameters()
    needed = [n for n, p in taken.items() if p.kind in _POSITIONAL and p.default is p.empty]
    if len(needed) not in (1, 2):
        raise InputError(
            f"{reference.place()}: the loss must take (output), (output, batch) or (model, batch),"
            f" not ({', '.join(needed)})"
        )
    options = frozenset(taken) - {*needed}
    return Criterion(function, reference.place(), tuple(needed), options)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
