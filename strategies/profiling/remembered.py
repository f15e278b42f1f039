"""What a model's forwards change of it besides buffers, put back after steps that only look."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container
from typing import Any, Self

import torch
from torch import Tensor, nn

from strategies.execution.inventory import OWN, Values
from strategies.execution.places import Contents, contents, dictionaries, filled
from strategies.execution.randoms import Restore, is_generator, own_state
from strategies.execution.tensors import has_version

_HOOKS = tuple(sorted(name for name in OWN if "_hooks" in name and "state_dict" not in name))


@dataclasses.dataclass(frozen=True)
class Remembered:
    """Attributes or buffers of a module, or attributes of an object that it has.

    Attributes:
        values: by name.
        then: what they were.
        contents: of the containers among them.
        tensors: among them, if nobody else puts them back: how often each had been written to, and
            a copy.
        generators: how to put them back.
    """

    values: Values
    then: Values
    contents: Contents
    tensors: list[tuple[Tensor, int, Tensor]]
    generators: list[Restore]

    @classmethod
    def of(cls, values: Values, apart: Container[int]) -> Self:
        """As they are now; tensors with these ids are put back by others."""
        then = {name: value for name, value in values.items() if name not in OWN}
        own = [v for v in then.values() if has_version(v) and id(v) not in apart]
        tensors = [(tensor, tensor._version, tensor.detach().clone()) for tensor in own]
        generators = [own_state(value) for value in then.values() if is_generator(value)]
        return cls(values, then, contents(then), tensors, generators)

    def restore(self) -> None:
        """Put them back: counters, caches, lists, what was assigned anew."""
        for name in self.values.keys() - self.then.keys() - OWN:
            del self.values[name]
        self.values.update(self.then)
        for name in filled(self.contents):
            held, then = self.contents[name]
            held.clear()
            (held.extend if hasattr(held, "extend") else held.update)(then)
        with torch.no_grad():
            for tensor, version, copy in self.tensors:
                if tensor._version != version:
                    tensor.copy_(copy)
        for restore in self.generators:
            restore()


def remember(model: nn.Module) -> Callable[[], None]:
    """How to put back what all its modules hold now, each once; not what is in its buffers."""
    places: dict[int, Any] = {}
    for module in model.modules():
        places |= {id(values): values for values in dictionaries(module)}
    buffers, hooks = set(map(id, model.buffers())), _hooks(model)
    remembered = [Remembered.of(values, buffers) for values in places.values()]

    def restore() -> None:
        for each in remembered:
            each.restore()
        for table, then in hooks:
            for key in table.keys() - then:
                del table[key]

    return restore


def _hooks(model: nn.Module) -> list[tuple[dict[int, Any], set[int]]]:
    """Tables of hooks, and what is in them: a first forward may add some, and note that it did."""
    tables = [m.__dict__.get(name) for m in model.modules() for name in _HOOKS]
    return [(table, set(table)) for table in tables if table is not None]
