"""Which operators of an attention module run again when its core alone is to be recomputed.

The core is what lies between the projections of query, key and value and the weighted sum: scores,
mask, softmax, dropout. The outputs of the projections and the sum are kept; all else runs again.
That is decided as the operators run: the last product before a softmax makes the scores, and the
next one after it is the sum. A kept output that someone writes to, and any of a graph that is
retained, is computed again, too: it is never wrong, and nothing is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from strategies.execution.dispatch import is_product, is_random
from strategies.execution.met import Pair

_SOFTMAX = ("_softmax", "_safe_softmax")
_BATCHED = ("bmm", "baddbmm")


@dataclasses.dataclass
class Product:
    """A product that ran in forward, and what it returned, if that is kept."""

    outputs: tuple[Any, ...] | None = None
    versions: tuple[int, ...] = ()

    @classmethod
    def of(cls, output: Any) -> Product:
        """Keep an output, without its graph but with its count of changes."""
        with torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.ADInplaceOrView, False):
            outputs = tuple(_detached(each) for each in _all(output))
        return cls(outputs, tuple(_versions(outputs)))

    def take(self) -> tuple[Any, ...] | None:
        """What was kept, once, if nobody wrote to it."""
        outputs, self.outputs = self.outputs, None
        if outputs is None or tuple(_versions(outputs)) != self.versions:
            return None
        return outputs


class Forward(TorchDispatchMode):
    """Of forward: keeps the projections and the weighted sum.

    Attributes:
        products: that ran, in their order.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: list[Product] = []
        self.is_sum_next = self.is_over = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run it, and keep what it returns or not."""
        del types
        output = func(*args, **(kwargs or {}))
        if _name(func) in _SOFTMAX:
            self.is_sum_next = True
            self.products[-1:] = [Product()] * bool(self.products)  # the scores
        elif is_product(func):
            kept = self._keeps(func, args, kwargs or {}, output)
            self.products.append(Product.of(output) if kept else Product())
        return output

    def _keeps(self, func: Any, args: Any, kwargs: Any, output: Any) -> bool:
        if self.is_sum_next or isinstance(output, tuple):  # or a kernel of all of attention
            self.is_sum_next, self.is_over = False, True
            return not is_random(func, args, kwargs)
        scores = _name(func) in _BATCHED and output.shape[0] > 1
        return not (self.is_over or scores)


class Again(TorchDispatchMode):
    """Of recompute: the same operators; those whose output was kept do not run."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.forward = forward
        self.products: Iterator[Product] = iter(())

    def __enter__(self) -> Any:
        """From the first operator on; a graph that is retained is recomputed each time."""
        self.products = iter(self.forward.products)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run it, or give what it gave."""
        del types
        outputs = next(self.products, Product()).take() if is_product(func) else None
        if outputs is None:
            return func(*args, **(kwargs or {}))
        return outputs if len(outputs) > 1 else outputs[0]


def contexts() -> Pair:
    """Of forward and of recompute, for one call of an attention module."""
    forward = Forward()
    return forward, Again(forward)


def _name(func: Any) -> str:
    return str(func.overloadpacket.__name__)


def _all(output: Any) -> tuple[Any, ...]:
    return tuple(output) if isinstance(output, (tuple, list)) else (output,)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _versions(values: Sequence[Any]) -> Iterator[int]:
    return (value._version for value in values if isinstance(value, Tensor))
