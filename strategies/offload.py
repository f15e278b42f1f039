"""Keep boundary activations off the device."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from strategies.base import Layered
from strategies.storage import Disk, Host, Storage, Tier

TIERS = ("auto", "host", "disk")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offload(Layered):
    """Boundaries move to a slower tier in forward and come back in backward.

    Attributes:
        tier: ``host`` (pinned memory, from an accelerator), ``disk`` (a temporary file), or
            ``auto``: host from an accelerator, disk from a CPU, where host memory would free
            nothing.
        directory: where the files go; default the system's temporary folder. A folder in memory
            (tmpfs) frees nothing either.
        over: the strategy that chooses the boundaries.
    """

    textbook_memory: ClassVar[str | None] = "checkpoints leave the device"
    textbook_compute: ClassVar[str | None] = "adds PCIe transfer latency"

    tier: str = "auto"
    directory: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tier not in TIERS:
            raise ValueError(f"offload: tier must be one of {', '.join(TIERS)}, not {self.tier!r}")
        if self.directory and not Path(self.directory).is_dir():
            raise ValueError(f"offload: directory {self.directory!r} does not exist")

    def unsupported(self, model: nn.Module, device: torch.device) -> str | None:
        """Host memory is no other place than a CPU's own."""
        if self.tier == "host" and device.type == "cpu":
            return "the model is in host memory already; use tier=disk"
        return super().unsupported(model, device)

    def storage(self) -> Storage:
        """The codec of the strategy below, on this tier."""
        below = super().storage() or Storage()
        return dataclasses.replace(below, tier=self.make_tier())

    def make_tier(self) -> Tier:
        """The tier; ``auto`` decides by the tensor that comes."""
        disk = Disk(directory=self.directory or None)
        tiers: dict[str, Tier] = {"host": Host(), "disk": disk, "auto": Auto(disk=disk)}
        return tiers[self.tier]


@dataclasses.dataclass(frozen=True)
class Auto(Tier):
    """Host memory for tensors of an accelerator, disk for those of a CPU."""

    name: ClassVar[str] = "auto"
    host: Host = dataclasses.field(default_factory=Host)
    disk: Disk = dataclasses.field(default_factory=Disk)

    def put(self, tensor: torch.Tensor) -> tuple[Tier, object]:
        """Move it to the right one."""
        tier: Tier = self.disk if tensor.device.type == "cpu" else self.host
        return tier, tier.put(tensor)

    def get(self, handle: tuple[Tier, object]) -> torch.Tensor:
        """From where it was put."""
        tier, inner = handle
        return tier.get(inner)
