"""fairscale's wrapper, around every block."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from strategies.contract.peer import IN_PLACE, Peer, undoable
from strategies.execution.chain import Chain
from strategies.execution.undo import Undo


@dataclasses.dataclass(frozen=True, kw_only=True)
class FairscaleCheckpoint(Peer):
    """``fairscale.nn.checkpoint.checkpoint_wrapper``, a function of autograd as reentrant ones are.

    Attributes:
        offload: keep each block's input in host memory.
    """

    package: ClassVar[str] = "fairscale"

    offload: bool = False

    def refusal(self, model: nn.Module, device: torch.device) -> str | None:  # noqa: ARG002
        """Host memory is no other place than a CPU's own."""
        return IN_PLACE if self.offload and device.type == "cpu" else None

    def install(self, model: nn.Module, chain: Chain) -> Sequence[Undo]:
        """It puts itself in the place of each block's forward."""
        from fairscale.nn.checkpoint import checkpoint_wrapper  # noqa: PLC0415 - optional

        blocks = dict.fromkeys(chain.blocks)
        return undoable(model, lambda: [checkpoint_wrapper(b, self.offload) for b in blocks])
