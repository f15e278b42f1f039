"""Rockmate, which plans operators of blocks under a budget."""

from __future__ import annotations

import dataclasses
import importlib
from typing import ClassVar

import torch
from torch import nn

from strategies.contract.peer import Elsewhere


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rockmate(Elsewhere):
    """``rockmate.Rockmate(model, batch, budget)`` (Zhao et al. 2023, arXiv 2307.01236)."""

    package: ClassVar[str] = "rockmate"

    def refusal(self, model: nn.Module, device: torch.device) -> str | None:
        """It needs CUDA, and what it depends on."""
        try:
            importlib.import_module("rockmate")
        except ImportError as error:
            return f"its version {self.version()} cannot be imported: {error}"
        if device.type != "cuda":
            return "it runs on CUDA alone"
        return super().refusal(model, device)
