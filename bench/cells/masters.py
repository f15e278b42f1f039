"""Weights in fp32 that an optimizer updates, of a model that computes in half precision."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


class Masters(nn.Module):
    """fp32 copies of a model's parameters (Micikevicius et al. 2018, «Mixed precision training»).

    As in Megatron-LM and apex: after backward every gradient is cast to fp32, the optimizer, whose
    state is fp32, updates the copies, and these are rounded into the model. Of each parameter that
    is 4 bytes for good and 4 during the update. The model's own gradients stay until they are
    dropped.

    Args:
        parameters: of the model; those that learn have a copy, if they are not in fp32 already.

    Attributes:
        weights: the copies.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self._own = [parameter for parameter in parameters if parameter.requires_grad]
        self.weights = nn.ParameterList(nn.Parameter(p.detach().float()) for p in self._own)

    def take_gradients(self) -> None:
        """Of the model, in fp32."""
        for own, master in zip(self._own, self.weights, strict=True):
            master.grad = None if own.grad is None else own.grad.float()

    @torch.no_grad()
    def give_weights(self) -> None:
        """To the model, rounded; the gradients in fp32 are gone."""
        for own, master in zip(self._own, self.weights, strict=True):
            own.copy_(master)
            master.grad = None
