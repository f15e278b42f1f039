"""What a block's run shows beyond its output: its operators, and what it changed."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from strategies.execution.dispatch import Onlooker
from strategies.execution.tensors import dense_parts, storage_key, tensors_in
from strategies.profiling.kinds import form_of

_VALUES = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_MASKS = (torch.bool, torch.uint8)
_INSTANCE = frozenset({"_parameters", "_modules"})


class Operators(Onlooker):
    """Reads the operators of the block that runs, and whether values decide about anything."""

    def __init__(self) -> None:
        super().__init__()
        self.values_decide = self.begun = False
        self.calls: list[Hashable] = []
        self.born: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator and note it."""
        read = tensors_in((args, kwargs))
        out = func(*args, **(kwargs or {}))
        self.values_decide |= self.begun and _values_decide(func, args)
        leaves, spec = tree_flatten((args, kwargs))
        facts = (form_of(leaf) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves)
        self.calls.append((str(func), str(spec), tuple(facts)))
        known = {storage_key(tensor) for tensor in read}
        for part in (part for tensor in tensors_in(out) for part in dense_parts(tensor)):
            if storage_key(part) not in known:
                self.born[storage_key(part)] = part.untyped_storage()
        return out


def _values_decide(func: Any, args: Sequence[Any]) -> bool:
    """Whether what an operator returns has a shape, or is a number, that values decide about."""
    if func.overloadpacket is torch.ops.aten.index or "index_put" in str(func):
        return any(tensor.dtype in _MASKS for tensor in tensors_in(args[1]))
    return any(tag in func.tags for tag in _VALUES)


@dataclasses.dataclass
class Before:
    """What a block's forward must not change."""

    leaves: list[Any]
    form: str
    versions: list[int]
    attributes: list[dict[str, int]]

    @classmethod
    def of(cls, block: nn.Module, args: Any, kwargs: Any) -> Before:
        """As it is now; ``leaves`` holds the arguments alive."""
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not leaf.is_inference()]
        versions = [tensor._version for tensor in tensors]
        return cls(leaves, str(spec), versions, [_attributes(m) for m in block.modules()])

    def unchanged(self, block: nn.Module, args: Any, kwargs: Any) -> bool:
        """Whether arguments and attributes are what they were."""
        after = Before.of(block, args, kwargs)
        same = list(map(id, after.leaves)) == list(map(id, self.leaves))
        return same and dataclasses.replace(after, leaves=self.leaves) == self


def _attributes(module: nn.Module) -> dict[str, int]:
    own = {name: id(value) for name, value in vars(module).items() if name not in _INSTANCE}
    own |= {f"buffers.{name}": id(value) for name, value in module._buffers.items()}
    return own


class Trail:
    """What the last block returned, as far as somebody holds it."""

    def __init__(self) -> None:
        self._references: list[weakref.ref[Tensor]] = []

    @property
    def tensors(self) -> list[Tensor | None]:
        """In order; ``None`` for one that is gone."""
        return [reference() for reference in self._references]

    def follow(self, output: Any) -> None:
        """A block returned this."""
        self._references = [weakref.ref(tensor) for tensor in tensors_in(output)]
