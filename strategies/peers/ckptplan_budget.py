"""ckptplan, which plans by activation bytes as CUDA's allocator tells them."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import nn

from strategies.contract.peer import Elsewhere


@dataclasses.dataclass(frozen=True, kw_only=True)
class CkptplanBudget(Elsewhere):
    """``ckptplan.plan_checkpoints`` and ``apply_plan``: some blocks checkpointed, some not.

    On a CPU it measures times alone and refuses to plan by them (``TimingOnlyProfileError``).
    """

    package: ClassVar[str] = "ckptplan"

    def refusal(self, model: nn.Module, device: torch.device) -> str | None:
        """Where it cannot plan, and where it cannot be undone."""
        if device.type == "cpu":
            return "it plans by activation bytes, which it measures on CUDA alone"
        return super().refusal(model, device)
