"""Autocast around a forward, as training loops have it: on where the caller asked for a plan."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch

from strategies.execution.tensors import device_kinds


@dataclasses.dataclass(frozen=True)
class Autocast:
    """What is cast to, by kind of device; nothing: there is none.

    Attributes:
        dtypes: by kind of device.
        caches: whether weights are cast once a forward.
    """

    dtypes: tuple[tuple[str, torch.dtype], ...] = ()
    caches: bool = True

    @classmethod
    def of_now(cls) -> Autocast:
        """Where the caller is."""
        kinds = list(filter(torch.is_autocast_enabled, device_kinds()))
        dtypes = tuple((kind, torch.get_autocast_dtype(kind)) for kind in kinds)
        return cls(dtypes, torch.is_autocast_cache_enabled())

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """On for a forward; with its end go the copies of weights."""
        with contextlib.ExitStack() as stack:
            for kind, dtype in self.dtypes:
                stack.enter_context(torch.autocast(kind, dtype, cache_enabled=self.caches))
            yield

    @contextlib.contextmanager
    def left(self) -> Iterator[None]:
        """As if the caller had entered none: else copies of weights would live until they leave."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_from_the_outside())
            torch.clear_autocast_cache()
            for kind, dtype in self.dtypes:
                torch.set_autocast_enabled(kind, False)
                stack.callback(torch.set_autocast_enabled, kind, True)
                stack.callback(torch.set_autocast_dtype, kind, dtype)
            yield


@contextlib.contextmanager
def _from_the_outside() -> Iterator[None]:
    """What is entered now is the outermost, whose end empties the cache."""
    depth = torch.autocast_increment_nesting()
    for _ in range(depth):
        torch.autocast_decrement_nesting()
    try:
        yield
    finally:
        for _ in range(depth - 1):
            torch.autocast_increment_nesting()
