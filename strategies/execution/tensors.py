"""Finds tensors in what blocks take and return, and the memory that they lie in."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

_LEAVES = frozenset({Tensor, nn.Parameter, type(None), bool, int, float, str})
_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device, torch.layout)
Spec = TreeSpec | tuple[str, ...]
"""How leaves lie in arguments and keywords: the names of the last ones, if nothing is nested."""
_INDICES = {
    torch.sparse_coo: ("_indices",),
    torch.sparse_csr: ("crow_indices", "col_indices"),
    torch.sparse_bsr: ("crow_indices", "col_indices"),
    torch.sparse_csc: ("ccol_indices", "row_indices"),
    torch.sparse_bsc: ("ccol_indices", "row_indices"),
}


def tensors_in(values: Any) -> list[Tensor]:
    """Every tensor in nested values, those in the fields of dataclasses too."""
    return list(_within(values))


def _within(values: Any) -> Iterator[Tensor]:
    """Operators take and return tensors, numbers and lists of them: no tree is built of those."""
    kind = type(values)
    if isinstance(values, Tensor):
        yield values
    elif kind is tuple or kind is list:
        for value in values:
            yield from _within(value)
    elif kind is dict:
        yield from _within(list(values.values()))
    elif kind not in _PLAIN:
        yield from _nested(values)


def _nested(values: Any) -> Iterator[Tensor]:
    for leaf in tree_leaves(values):
        if isinstance(leaf, Tensor):
            yield leaf
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            yield from _within([getattr(leaf, field.name) for field in dataclasses.fields(leaf)])


def dense_parts(tensor: Tensor) -> list[Tensor]:
    """The tensors that hold its bytes: itself, or values and indices of a sparse or jagged one."""
    if tensor.layout is torch.strided:
        return [tensor]
    if tensor.layout is torch.jagged:
        inner, _ = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
        return [getattr(tensor, name) for name in inner if name.startswith(("_values", "_offsets"))]
    values = tensor._values() if tensor.layout is torch.sparse_coo else tensor.values()
    return [values, *(getattr(tensor, name)() for name in _INDICES[tensor.layout])]


def storage_key(tensor: Tensor) -> int:
    """What tells a tensor's memory from all other that is alive."""
    return int(dense_parts(tensor)[0].untyped_storage()._cdata)


def fills_memory(tensor: Tensor) -> bool:
    """Whether its elements are all that lies in its memory."""
    if tensor.layout is not torch.strided:
        return False
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def device_kinds() -> tuple[str, ...]:
    """The kinds of device that operators may run on here: the CPU, and the accelerator's."""
    accelerator = torch.accelerator.current_accelerator()
    return ("cpu", accelerator.type) if accelerator else ("cpu",)


def has_version(value: Any) -> bool:
    """Whether it is a tensor that knows how often it was written to."""
    return isinstance(value, Tensor) and not value.is_inference()


def flat(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Sequence[Any], Spec | None]:
    """The leaves of arguments and keywords, and how they lie; without, where all are arguments."""
    leaves = (*args, *kwargs.values()) if kwargs else args
    if _LEAVES.issuperset(map(type, leaves)):
        return leaves, tuple(kwargs) if kwargs else None
    return tree_flatten((args, kwargs))


def unflat(leaves: Sequence[Any], spec: Spec | None) -> tuple[Any, Any]:
    """Arguments and keywords again, of the same leaves, in new containers."""
    if isinstance(spec, TreeSpec):
        args, kwargs = tree_unflatten(leaves, spec)
        return args, kwargs
    names = spec or ()
    count = len(leaves) - len(names)
    return tuple(leaves[:count]), dict(zip(names, leaves[count:], strict=True))


def leaves_of(output: Any) -> Sequence[Any]:
    """The leaves of what a block returned."""
    return (output,) if type(output) is Tensor else tree_leaves(output)


def boundary_of(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Any]:
    """The leaves of a block's first argument; of keywords alone, of the first that is declared."""
    if args or not kwargs:
        return tree_leaves(args[:1])
    declared = [name for name in inspect.signature(forward).parameters if name in kwargs]
    return tree_leaves(kwargs[next(iter([*declared, *kwargs]))])
