"""Where modules and the objects that they hold or are given keep what a forward may change."""

from __future__ import annotations

import copy
import dataclasses
import functools
import operator
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.batchnorm import _NormBase

from strategies.execution.inventory import OWN, Values
from strategies.execution.randoms import is_generator
from strategies.execution.stand_in import Replicate, StandIn
from strategies.execution.tensors import has_version, tensors_in

Make = Callable[[], Any]
Contents = dict[str, tuple[Any, Any]]
_CONTAINERS = (list, dict, set, deque)
# What has attributes, but none that a forward would change.
_STATELESS = (
    *(nn.Module, Tensor, StandIn, Replicate, functools.partial),
    *(type, types.FunctionType, types.MethodType, types.ModuleType),
)
# PyTorch's own that change nothing of themselves, whether in training or not: most of a block.
_UNCHANGING = frozenset(
    {
        *(nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.LayerNorm, nn.RMSNorm),
        *(nn.GroupNorm, nn.GELU, nn.ReLU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity),
    }
)
SIMPLE = frozenset({Tensor, nn.Parameter, FakeTensor, type(None), bool, int, float, str})


@dataclasses.dataclass(frozen=True)
class Place:
    """The attributes or the buffers of a module, or the attributes of an object that it has.

    Attributes:
        module: whose.
        values: by name.
        tensors: names of tensors, which a forward might write to.
        containers: names of lists and the like, which it might fill.
        generators: names of generators, from which it might draw.
    """

    module: nn.Module
    values: Values
    tensors: list[str]
    containers: list[str]
    generators: list[str]

    @property
    def is_module(self) -> bool:
        """Whether the values are the module's own attributes."""
        return self.values is vars(self.module)

    @classmethod
    def of(cls, module: nn.Module, values: Values) -> Place:
        """Look through the values."""
        own = {name: value for name, value in values.items() if name not in OWN}
        tensors = [name for name, value in own.items() if has_version(value)]
        containers = [name for name, value in own.items() if isinstance(value, _CONTAINERS)]
        generators = [name for name, value in own.items() if is_generator(value)]
        return cls(module, values, tensors, containers, generators)


def dictionaries(module: nn.Module) -> Iterator[Values]:
    """Attributes and buffers of a module, and the attributes of the objects that it has."""
    if type(module) in _UNCHANGING and not module._forward_pre_hooks:
        return
    yield vars(module)
    if not (isinstance(module, _NormBase) and module.training):
        yield module._buffers
    for name, value in vars(module).items():
        if name not in OWN and has_state(value):
            yield vars(value)


def reachable(leaves: Iterable[Any]) -> list[Values]:
    """The attributes of objects, of objects that these have, and so on: a cache holds its layers'.

    Each once, however the objects refer to each other.
    """
    attributes: dict[int, Values] = {}
    waiting = deque(leaves)
    while waiting:
        value = waiting.popleft()
        if isinstance(value, (list, tuple, dict)):
            waiting.extend(value.values() if isinstance(value, dict) else value)
        elif type(value) not in SIMPLE and has_state(value) and id(vars(value)) not in attributes:
            attributes[id(vars(value))] = vars(value)
            waiting.extend(vars(value).values())
    return list(attributes.values())


def contents(values: Values) -> Contents:
    """The containers among values, each with a copy: what it holds now."""
    return {
        n: (held, copy.copy(held)) for n, held in values.items() if isinstance(held, _CONTAINERS)
    }


def filled(before: Contents) -> dict[str, Make]:
    """How to make those that hold something else by now as they were."""
    others = {name: then for name, (held, then) in before.items() if not _alike(held, then)}
    return {name: functools.partial(copy.copy, then) for name, then in others.items()}


def _alike(held: Any, then: Any) -> bool:
    """Whether a container holds the same objects as then."""
    if len(held) != len(then):
        return False
    if isinstance(held, dict):
        return list(held) == list(then) and all(map(operator.is_, held.values(), then.values()))
    return held == then if isinstance(held, set) else all(map(operator.is_, held, then))


def has_state(value: Any) -> bool:
    """Whether it is an object whose attributes a forward might change."""
    stateless = isinstance(value, _STATELESS) or is_generator(value)
    return not stateless and type(getattr(value, "__dict__", None)) is dict


def written_to(leaf: Any) -> int:
    """How often a tensor was written to, or those in an object."""
    if type(leaf) is Tensor:  # most are
        return 0 if leaf.is_inference() else leaf._version
    if has_version(leaf):
        return int(leaf._version)
    if not has_tensors(leaf):
        return 0
    held = tensors_in(vars(leaf) if has_state(leaf) else leaf)
    return sum(tensor._version for tensor in held if has_version(tensor))


def has_tensors(leaf: Any) -> bool:
    """Whether it is an object that may hold tensors."""
    return type(leaf) not in SIMPLE and (dataclasses.is_dataclass(leaf) or has_state(leaf))
