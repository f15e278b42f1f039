"""A gradient scaler for fake gradients."""

from __future__ import annotations

from typing import Any

import torch


class FiniteScaler(torch.amp.GradScaler):
    """Whether fake gradients are finite cannot be asked, and so they are."""

    def _maybe_opt_step(
        self, optimizer: torch.optim.Optimizer, optimizer_state: Any, *args: Any, **kwargs: Any
    ) -> float | None:
        del optimizer_state
        updated: float | None = optimizer.step(*args, **kwargs)
        return updated
