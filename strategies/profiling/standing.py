"""What is there from step to step beside parameters, buffers and batch: nobody lists it.

Tables and last results in attributes of modules, and of the objects that they have, can be looked
up. What a function's cache holds, or a module of Python, a forward shows: it reads it, or leaves it
behind; where each leaves another, one is seen before each step that is watched.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from strategies.execution.dispatch import Onlooker
from strategies.execution.inventory import OWN
from strategies.execution.places import SIMPLE, reachable
from strategies.execution.tensors import dense_parts, storage_key, tensors_in
from strategies.profiling.step import Step, run_once

Reference = weakref.ref[torch.UntypedStorage]


def standing(step: Step) -> list[torch.UntypedStorage]:
    """The memory that a step's model, or anybody whom `noted` saw, holds now besides.

    Only on the devices of its parameters, and without what is resident anyway.
    """
    storages = {storage_key(part): part.untyped_storage() for part in _attributes(step.model)}
    seen = (reference() for reference in getattr(step, "standing", ()))
    storages |= {storage._cdata: storage for storage in seen if storage is not None}
    known = _keys(step.resident_tensors())
    return [storage for key, storage in storages.items() if key not in known]


def standing_bytes(step: Step) -> int:
    """Of what stands now."""
    return sum(storage.nbytes() for storage in standing(step))


def settle(step: Step) -> None:
    """Have it be as between two steps of training, where forwards alone left something else.

    A graph in an attribute holds all that was saved, and goes as a whole; and what others hold was
    renewed since it was noted.
    """
    renewed = any(reference() is None for reference in getattr(step, "standing", ()))
    if renewed or any(tensor.grad_fn is not None for tensor in _attributes(step.model)):
        begin_anew(step)


def begin_anew(step: Step) -> None:
    """Run a step, from no gradients, and note what stands after it."""
    with noted(step):
        run_once(step)


@contextlib.contextmanager
def noted(step: Step) -> Iterator[None]:
    """See what a step reads that it did not make, and what it makes that outlives it."""
    seen = _Seen(_devices(step.model))
    with seen:
        yield
    gradients = (p.grad for p in step.model.parameters() if p.grad is not None)
    known = _keys([*step.resident_tensors(), *_attributes(step.model), *gradients])
    if seen.leaves(known):
        gc.collect()  # what only a circle holds is gone then
    step.standing = seen.alive(known)  # type: ignore[attr-defined]


class _Seen(Onlooker):
    """Every storage that operators take and return on some devices."""

    def __init__(self, devices: set[torch.device]) -> None:
        super().__init__()
        self.devices = devices
        self.storages: dict[int, Reference] = {}
        self.made: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operator and note its tensors."""
        self.made -= set(self._new((args, kwargs)))
        out = func(*args, **(kwargs or {}))
        self.made |= set(self._new(out))
        return out

    def _new(self, values: Any) -> Iterator[int]:
        """Keys of what was not seen before; of what is gone, others use the key."""
        tensors = (tensor for tensor in tensors_in(values) if tensor.device in self.devices)
        for part in (part for tensor in tensors for part in dense_parts(tensor)):
            key, storage = storage_key(part), part.untyped_storage()
            before = self.storages.get(key)
            if before is None or before() is None:
                self.storages[key] = weakref.ref(storage)
                yield key

    def leaves(self, without: set[int]) -> bool:
        """Whether anything is there now that operators made."""
        return any(self.storages[key]() is not None for key in self.made - without)

    def alive(self, without: set[int]) -> list[Reference]:
        """Those that are there now."""
        there = self.storages.items()
        return [one for key, one in there if key not in without and one() is not None]


def _attributes(model: nn.Module) -> list[Tensor]:
    """Dense parts of what is in attributes; of parameters and buffers, only if they are there."""
    values = [
        value
        for module in model.modules()
        for name, value in vars(module).items()
        if name not in OWN and (type(value) not in SIMPLE or isinstance(value, Tensor))
    ]
    devices, places = _devices(model), [values, *map(dict.values, reachable(values))]
    tensors = (tensor for place in places for tensor in tensors_in(list(place)))
    return [p for tensor in tensors if tensor.device in devices for p in dense_parts(tensor)]


def _devices(model: nn.Module) -> set[torch.device]:
    """Of its parameters; of a model that ranks share none, for there they come and go, too."""
    parameters = list(model.parameters())
    if any(hasattr(parameter, "device_mesh") for parameter in parameters):
        return set()
    return {parameter.device for parameter in parameters}


def _keys(tensors: Sequence[Tensor]) -> set[int]:
    return {storage_key(part) for tensor in tensors for part in dense_parts(tensor)}
