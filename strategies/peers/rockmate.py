"""Rockmate, which plans operators of blocks under a budget."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import nn

from strategies.contract.peer import Elsewhere


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rockmate(Elsewhere):
    """``rockmate.Rockmate(model, batch, budget)`` (Zhao et al. 2023, arXiv 2307.01236).

    Version 2.0.0 sets ``torch.device("cuda")`` whatever the model is on, and cannot be imported as
    published: rkgb 2.0.0, on which it depends, comes without its package ``rkgb.core``.
    """

    package: ClassVar[str] = "rockmate"

    def refusal(self, model: nn.Module, device: torch.device) -> str | None:
        """It needs CUDA."""
        if device.type != "cuda":
            return "it runs on CUDA alone"
        return super().refusal(model, device)
