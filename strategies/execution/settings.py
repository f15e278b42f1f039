"""PyTorch's settings of the whole process that a block sees: what it makes, and by which kernels.

A default dtype or device, deterministic algorithms, the kernels that attention may use, cuDNN and
oneDNN: a model, or whoever calls it, may have them for forward alone, and a recompute comes later.
What costs nothing to know is known of every forward; this is asked of each block until it has run
again, and of all blocks from then on if a recompute ever finds a setting changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

Setting = tuple[Callable[[], Any], Callable[[Any], object]]
SCOPED: list[Settings] = []
"""Those of the first forward whose recompute found others."""


_KINDS = (
    *("_sdp_enabled", "_sdp_priority_order", "_benchmark", "uninitialized_memory"),
    *("cudnn_enabled", "mkldnn_enabled", "cudnn_deterministic", "mkldnn_deterministic"),
)


def _switches() -> Iterator[Setting]:
    """Those that PyTorch's own library keeps; some versions have more."""
    own: dict[str, Any] = vars(torch._C)
    names = (name for name in own if name.startswith("_get_") and name.endswith(_KINDS))
    for name in names:
        kernel = name.removeprefix("_get_").removesuffix("_sdp_enabled")
        setters = (f"_set_sdp_use_{kernel}", name.replace("_get_", "_set_", 1))
        yield from ((own[name], own[setter]) for setter in setters if setter in own)


def _determinism() -> tuple[bool, bool]:
    return (
        torch._C._get_deterministic_algorithms(),
        torch._C._get_deterministic_algorithms_warn_only(),
    )


def _determine(mode: tuple[bool, bool]) -> None:
    torch._C._set_deterministic_algorithms(mode[0], warn_only=mode[1])


_SETTINGS: list[Setting] = [
    (torch.get_default_dtype, torch.set_default_dtype),
    (_determinism, _determine),
    *_switches(),
]


class Settings:
    """As they are now."""

    __slots__ = ("device", "values")

    def __init__(self) -> None:
        self.values = [get() for get, _ in _SETTINGS]
        self.device = _default_device()

    def are_others(self) -> bool:
        """Whether one is another now."""
        return self._differ_from(Settings())

    def _differ_from(self, now: Settings) -> bool:
        return now.values != self.values or now.device != self.device

    def restore(self, stack: contextlib.ExitStack) -> None:
        """Set them so until the stack ends, if one is another now."""
        now = Settings()
        if not self._differ_from(now):
            return
        stack.callback(now.put)
        self.put()
        if now.device != self.device:
            stack.enter_context(self.device)
        SCOPED[:] = [self]

    def put(self) -> None:
        """Set those that are others now."""
        for (get, put), value in zip(_SETTINGS, self.values, strict=True):
            if get() != value:
                put(value)


def _default_device() -> torch.device:
    modes = reversed(_get_current_function_mode_stack())
    own = (mode.device for mode in modes if isinstance(mode, DeviceContext))
    return next(own, torch.device("cpu"))
