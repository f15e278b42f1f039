"""PyTorch's own offloading of everything that autograd saves."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu

from strategies.contract.peer import IN_PLACE, Around, Peer
from strategies.execution.chain import Chain
from strategies.execution.undo import Undo


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchSaveOnCpu(Peer):
    """``torch.autograd.graph.save_on_cpu`` around the forward: nothing is computed twice.

    Attributes:
        pinned: copy to pinned memory, as an accelerator copies fastest.
    """

    pinned: bool = True

    def refusal(self, model: nn.Module, device: torch.device) -> str | None:  # noqa: ARG002
        """Host memory is no other place than a CPU's own."""
        return IN_PLACE if device.type == "cpu" else None

    def install(self, model: nn.Module, chain: Chain) -> Sequence[Undo]:  # noqa: ARG002
        """Around the whole model."""
        return [Around(model, self.run).install()]

    def run(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """The forward; backward copies back what it needs."""
        with save_on_cpu(pin_memory=self.pinned):
            return function(*args, **kwargs)
