"""Keep boundary activations off the device."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import nn

from strategies.contract.layered import Layered
from strategies.storage import Storage, Tier
from strategies.storage.auto import check, no_other_place, tier_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offload(Layered):
    """Boundaries move to a slower tier in forward and come back in backward.

    As vDNN does with the inputs of layers (Rhu et al. 2016, arXiv 1602.08124).

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
        check("offload", self.tier, self.directory)

    def unsupported(self, model: nn.Module, device: torch.device) -> str | None:
        """Host memory is no other place than a CPU's own."""
        return no_other_place(self.tier, device) or super().unsupported(model, device)

    def storage(self) -> Storage:
        """The codec of the strategy below, on this tier."""
        below = super().storage() or Storage()
        return dataclasses.replace(below, tier=self.make_tier())

    def make_tier(self) -> Tier:
        """See `tier_of`."""
        return tier_of(self.tier, self.directory)
