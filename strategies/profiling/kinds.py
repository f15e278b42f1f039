"""Which blocks are equal as they stand: same classes, shapes, settings and training state.

Compared are values that hash: what cannot be compared (an object of unknown make) stands for itself
alone, so that two blocks are taken for equal only where everything about them was seen to be.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from strategies.execution.chain import Chain
from strategies.execution.stand_in import COMPILED
from strategies.execution.tensors import storage_key
from strategies.profiling.update_room import UpdateRoom

_PLACE = re.compile(r"(^|_)(idx|index|id|number)$")
_REGISTERED = frozenset({"_parameters", "_buffers", "_modules"})
_PLAIN = (type(None), bool, int, float, complex, str, bytes, enum.Enum)
_FACTS = (torch.dtype, torch.device, torch.layout, torch.memory_format, type)
_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a block is, as far as it can be seen without running it.

    Attributes:
        key: equal for equal blocks.
        numbered: the block knows its own place in the tower, which the key leaves out: whether its
            forward asks for it shows only when it runs.
    """

    key: Hashable
    numbered: bool


def kinds_of(chain: Chain, model: nn.Module) -> list[Kind]:
    """The kind of every block of ``chain``, in order; hooks that hang on the blocks count."""
    sharing = _Sharing(chain, model)
    places = [place for span in chain.spans for place in range(len(span))]
    return [
        _Reading(place, index, sharing).kind(block)
        for index, (place, block) in enumerate(zip(places, chain.blocks, strict=True))
    ]


class _Sharing:
    """Which blocks, or the rest of the model, hold a parameter's or buffer's memory."""

    def __init__(self, chain: Chain, model: nn.Module) -> None:
        self.holders: dict[int, set[int]] = collections.defaultdict(set)
        for index, block in enumerate(chain.blocks):
            for tensor in (*block.parameters(), *block.buffers()):
                self.holders[storage_key(tensor)].add(index)
        inside = {id(module) for block in chain.blocks for module in block.modules()}
        for module in model.modules():
            if id(module) not in inside:
                for value in (*module._parameters.values(), *module._buffers.values()):
                    if value is not None:
                        self.holders[storage_key(value)].add(-1)

    def of(self, tensor: Tensor, index: int) -> tuple[bool, bool, bool]:
        """Whether an earlier block, a later one, the rest of the model holds it too."""
        holders = self.holders[storage_key(tensor)]
        earlier = any(0 <= holder < index for holder in holders)
        return earlier, any(holder > index for holder in holders), -1 in holders


class _Reading:
    """One block, read into a key."""

    def __init__(self, place: int, index: int, sharing: _Sharing) -> None:
        self.place, self.index, self.sharing = place, index, sharing
        self.numbered = False
        self.seen: dict[int, int] = {}

    def kind(self, block: nn.Module) -> Kind:
        """The whole of it."""
        return Kind(self.module(block), self.numbered)

    def module(self, module: nn.Module) -> Hashable:
        """Class, settings, tensors and sub-modules; of one that was met before, where."""
        if id(module) in self.seen:
            return "again", self.seen[id(module)]
        self.seen[id(module)] = len(self.seen)
        own = [(name, value) for name, value in vars(module).items() if name not in _REGISTERED]
        return (
            type(module),
            tuple((name, self.setting(name, value)) for name, value in own),
            tuple((name, self.state(value)) for name, value in module._parameters.items()),
            tuple((name, self.state(value)) for name, value in module._buffers.items()),
            tuple((name, value and self.module(value)) for name, value in module._modules.items()),
        )

    def setting(self, name: str, value: Any) -> Hashable:
        """An attribute; one that counts the blocks is taken for its distance from the place."""
        if name == COMPILED:
            return name, value is not None  # profiled eagerly, and compiled block by block
        counts = type(value) is int and value - self.place in (0, 1) and _PLACE.search(name)
        if counts:
            self.numbered = True
            return "place", value - self.place
        return self.value(value)

    def state(self, tensor: Tensor | None) -> Hashable:
        """A parameter or buffer: its form, and who shares it."""
        if tensor is None:
            return None
        key = storage_key(tensor)
        again = self.seen.setdefault(key, len(self.seen))
        hooks = [hook for name in _HOOKS for hook in (getattr(tensor, name, None) or {}).values()]
        form = (*form_of(tensor), *self.sharing.of(tensor, self.index), again)
        known = (hook if isinstance(hook, UpdateRoom) else id(tensor) for hook in hooks)
        return form if not hooks else (form, *known)

    def value(self, value: Any) -> Hashable:
        """Any attribute's value."""
        if isinstance(value, (*_PLAIN, *_FACTS)):
            return type(value), value
        if isinstance(value, Tensor):
            return form_of(value)
        if isinstance(value, nn.Module):  # held outside the tree of modules
            return "object", id(value)
        return self.container(value)

    def container(self, value: Any) -> Hashable:
        """What holds other values, or an object that only equals itself."""
        if isinstance(value, Mapping):
            items = tuple((self.value(k), self.value(v)) for k, v in value.items())
            return type(value), items
        if isinstance(value, (list, tuple)):
            return type(value), tuple(map(self.value, value))
        if isinstance(value, (set, frozenset)):
            return type(value), frozenset(map(self.value, value))
        if dataclasses.is_dataclass(value) and type(value).__eq__ is not object.__eq__:
            fields = [getattr(value, field.name) for field in dataclasses.fields(value)]
            return type(value), tuple(map(self.value, fields))
        return "object", id(value)


def form_of(tensor: Tensor) -> tuple[Hashable, ...]:
    """All that what a block costs can depend on, but for the values."""
    layout: tuple[Hashable, ...] = (tensor.layout,)
    if tensor.layout is torch.strided:
        layout += (tensor.stride(), tensor.storage_offset(), tensor.untyped_storage().nbytes())
    form = (type(tensor), tuple(tensor.shape), tensor.dtype, tensor.device, tensor.requires_grad)
    return (*form, *layout)


def plain_or_none(leaves: Sequence[Any]) -> bool:
    """Whether no leaf is anything but a tensor or a plain value."""
    return all(isinstance(leaf, (Tensor, *_PLAIN, *_FACTS)) for leaf in leaves)
