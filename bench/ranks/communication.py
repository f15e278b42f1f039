"""What ranks say to each other in a step: every collective that this rank takes part in."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

from torch.distributed.tensor import DTensor

from strategies.execution.dispatch import Onlooker
from strategies.execution.tensors import tensors_in
from strategies.profiling.flops import FlopCounter

KINDS = ("all_gather", "reduce_scatter", "all_reduce", "all_to_all", "broadcast", "send", "recv")
"""Collectives by the names that torch.distributed's functions have, the longer before the parts."""


class Communication(Onlooker):
    """Counts collectives while it is active, on this rank.

    Attributes:
        calls: by kind.
        message_bytes: by kind: the whole of what is gathered, reduced or sent, as in a table of
            collectives' bandwidths; a ring of n ranks moves (n − 1)/n of it to gather or to
            scatter, twice that to reduce for all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: collections.Counter[str] = collections.Counter()
        self.message_bytes: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator and count it, if it is a collective."""
        if is_sharded(types):
            return NotImplemented  # it comes again in parts, collectives among them
        out = func(*args, **(kwargs or {}))
        kind = kind_of(func)
        if kind is not None:
            self.calls[kind] += 1
            self.message_bytes[kind] += max(_bytes(value) for value in (*args, out))
        return out


def is_sharded(types: Sequence[type]) -> bool:
    """Whether an operator is of tensors that several ranks hold: each rank's own part follows."""
    return any(issubclass(kind, DTensor) for kind in types)


def kind_of(func: Any) -> str | None:
    """Which collective an operator is, if it is any."""
    if "c10d" not in func.namespace:
        return None
    name = func._schema.name.partition("::")[2].replace("_", "")
    return next((kind for kind in KINDS if kind.replace("_", "") in name), None)


def _bytes(value: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors_in(value))


class LocalFlops(FlopCounter):
    """Counts what this rank computes of operators on tensors that several ranks hold."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator and add its FLOPs."""
        if is_sharded(types):
            return NotImplemented
        return super().__torch_dispatch__(func, types, args, kwargs)
