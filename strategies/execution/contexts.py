"""What surrounds the two runs of a checkpoint: its forward, and its recompute.

In forward, buffers are watched; in recompute, running statistics are frozen. An op policy
(`strategies.execution.op_policies`) adds contexts of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from strategies.execution.errors import Unsupported

Pair = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]


class FrozenStatistics:
    """Lets modules run again without updating their running statistics a second time.

    Batch norms see copies of their buffers meanwhile. Can be entered again: a graph that is
    retained is recomputed at every backward.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules
        self.swapped: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        """Swap copies in."""
        for norm in (m for root in self.modules for m in root.modules()):
            if isinstance(norm, _NormBase) and norm.training:
                for name, buffer in norm._buffers.items():
                    if buffer is not None:
                        self.swapped.append((norm, name, buffer))
                        norm._buffers[name] = buffer.clone()

    def __exit__(self, *exception: object) -> None:
        """Put the buffers back."""
        while self.swapped:
            norm, name, buffer = self.swapped.pop()
            norm._buffers[name] = buffer


class WatchedBuffers:
    """Refuses modules whose forward changes buffers in place, other than running statistics.

    Spectral norm, for one: recompute would see other weights than forward, and change them again.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules
        self.seen: list[tuple[nn.Module, str, Tensor, int]] = []

    def __enter__(self) -> None:
        """Remember versions."""
        for module in (m for root in self.modules for m in root.modules() if m._buffers):
            if module.training and not isinstance(module, _NormBase):
                self.seen += [
                    (module, name, buffer, buffer._version)
                    for name, buffer in module._buffers.items()
                    if buffer is not None and not buffer.is_inference()
                ]

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        """Compare them.

        Raises:
            Unsupported: one is another.
        """
        for module, name, buffer, version in self.seen:
            if kind is None and buffer._version != version:
                raise Unsupported(
                    f"{type(module).__name__} changes its buffer {name!r} in forward; recompute"
                    " would do so again and find it changed"
                )


class _Together:
    """Several contexts as one, entered in order; can be entered again, as all contexts here."""

    def __init__(self, *contexts: AbstractContextManager[Any]) -> None:
        self.contexts = contexts
        self.entered: list[contextlib.ExitStack] = []

    def __enter__(self) -> None:
        with contextlib.ExitStack() as stack:
            for context in self.contexts:
                stack.enter_context(context)
            self.entered.append(stack.pop_all())

    def __exit__(self, *exception: Any) -> bool | None:
        return self.entered.pop().__exit__(*exception)


class Contexts:
    """``context_fn`` of a checkpoint.

    Attributes:
        modules: that run under it.
        more: further contexts of forward and of recompute, innermost.
    """

    def __init__(self, modules: Sequence[nn.Module], more: Callable[[], Pair] | None) -> None:
        self.modules, self.more = modules, more

    def __call__(self) -> Pair:
        """Of one call."""
        watched, frozen = WatchedBuffers(self.modules), FrozenStatistics(self.modules)
        if self.more is None:
            return watched, frozen
        forward, again = self.more()
        return _Together(watched, forward), _Together(frozen, again)
