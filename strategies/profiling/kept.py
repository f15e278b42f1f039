"""What is there from step to step beside parameters, buffers and batch: nobody lists it.

Tables and last results in attributes of modules, and of the objects that they have, can be looked
up. What a function's cache holds, or a module of Python, a forward shows: it reads it, or leaves it
behind; where each leaves another, one is seen before each step that is watched.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from strategies.execution.inventory import OWN
from strategies.execution.places import SIMPLE, reachable
from strategies.execution.tensors import dense_parts, storage_key, tensors_in
from strategies.profiling.step import Step

Reference = weakref.ref[torch.UntypedStorage]


def kept(step: Step) -> list[torch.UntypedStorage]:
    """The memory that a step's model, or anybody whom `noted` saw, holds now besides.

    Only on the devices of its parameters, and without what is resident anyway. Of a model that is
    shared by ranks nothing: its parameters come and go, in places of the kind.
    """
    if any(hasattr(parameter, "device_mesh") for parameter in step.model.parameters()):
        return []
    storages = {storage_key(part): part.untyped_storage() for part in _attributes(step.model)}
    seen = (reference() for reference in getattr(step, "kept", ()))
    storages |= {storage._cdata: storage for storage in seen if storage is not None}
    known = _keys(step.resident_tensors())
    return [storage for key, storage in storages.items() if key not in known]


def kept_throughout(step: Step) -> Callable[[], int]:
    """Asked later on, how many bytes of what is kept now are there still."""
    references = list(map(weakref.ref, kept(step)))
    return lambda: sum(one.nbytes() for one in (each() for each in references) if one is not None)


def settle(step: Step) -> None:
    """Have it be as between two steps of training, where forwards alone left something else.

    A graph in an attribute holds all that was saved, and goes as a whole; and what others keep was
    renewed since it was noted.
    """
    renewed = any(reference() is None for reference in getattr(step, "kept", ()))
    if renewed or any(tensor.grad_fn is not None for tensor in _attributes(step.model)):
        run_once(step)


def run_once(step: Step) -> None:
    """A step, and note what is kept after it."""
    with noted(step):
        step.backward(step.forward())


@contextlib.contextmanager
def noted(step: Step) -> Iterator[None]:
    """See what a step reads that it did not make, and what it makes that outlives it."""
    seen = _Seen(_devices(step.model))
    with seen:
        yield
    gradients = (p.grad for p in step.model.parameters() if p.grad is not None)
    known = _keys([*step.resident_tensors(), *_attributes(step.model), *gradients])
    alive = seen.alive(known)
    if alive:
        del alive
        gc.collect()  # what only a circle holds is gone then
    step.kept = seen.alive(known)  # type: ignore[attr-defined]


class _Seen(TorchDispatchMode):
    """Every storage that operators take and return on some devices."""

    def __init__(self, devices: set[torch.device]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.devices = devices
        self.storages: dict[int, Reference] = {}

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """See `strategies.profiling.flops.FlopCounter`."""
        return True

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operator and note its tensors."""
        out = func(*args, **(kwargs or {}))
        for tensor in tensors_in((args, kwargs, out)):
            if tensor.device in self.devices:
                self._note(tensor)
        return out

    def _note(self, tensor: Tensor) -> None:
        for part in dense_parts(tensor):
            storage = part.untyped_storage()
            before = self.storages.get(storage._cdata)
            if before is None or before() is None:
                self.storages[storage._cdata] = weakref.ref(storage)

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
    return {parameter.device for parameter in model.parameters()}


def _keys(tensors: Sequence[Tensor]) -> set[int]:
    return {storage_key(part) for tensor in tensors for part in dense_parts(tensor)}
