"""A device as two rates, so that a profile's times depend on the model and not on the day."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Scratch = Callable[[Any, Sequence[Any], Mapping[str, Any]], Sequence[int]]
"""Of an operator and its arguments: bytes of each block that its kernel takes besides outputs."""


@dataclasses.dataclass(frozen=True)
class Rates:
    """The roofline of a device (Williams, Waterman and Patterson 2009).

    Attributes:
        flops_per_s: of dense products in the model's dtype.
        bytes_per_s: to and from device memory.
        launch_s: fixed cost of an operator.
        link_bytes_per_s: between the device and the tier where boundaries rest, each way.
        link_tier: that tier: ``host``, or ``disk`` from a CPU.
        scratch: of its kernels, where tensors are fake and no allocator shows it.
        reach: of an operator, as PyTorch names it without ``aten::``: what part of the two rates
            its kernel reaches; all of them, if nothing is known.
    """

    flops_per_s: float
    bytes_per_s: float
    launch_s: float = 0.0
    link_bytes_per_s: float = 25e9
    link_tier: str = "host"
    scratch: Scratch | None = None
    reach: Callable[[str], float] | None = None

    def operator_s(self, name: str, flops: int, moved_bytes: int) -> float:
        """Seconds of one operator: its launch, then the slower of arithmetic and traffic."""
        part = self.reach(name) if self.reach else 1.0
        slower_s = max(flops / self.flops_per_s, moved_bytes / self.bytes_per_s)
        return self.launch_s + slower_s / part


# Round figures of a kind of device, good for weighing one recomputation against another. Whoever
# knows the device better gives its own (`bench plan` takes them from the catalogue, or measures).
NOMINAL = {
    "cpu": Rates(
        flops_per_s=150e9,
        bytes_per_s=15e9,
        launch_s=2e-6,
        link_bytes_per_s=1e9,
        link_tier="disk",
    ),
    "accelerator": Rates(flops_per_s=300e12, bytes_per_s=2e12, launch_s=4e-6),
}


def nominal(device: torch.device) -> Rates:
    """Round figures for a device of this kind."""
    return NOMINAL["cpu" if device.type == "cpu" else "accelerator"]
