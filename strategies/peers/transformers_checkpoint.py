"""What models of the transformers library have built in."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from strategies.contract.peer import IN_PLACE, Peer, undoable
from strategies.contract.strategy import Strategy
from strategies.execution.chain import Chain
from strategies.execution.undo import Undo

_SWITCHES = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
"""The newer name first: version 5.2 warns of the older, which the textbook calls."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformersCheckpoint(Peer):
    """``model.gradient_checkpointing_enable()``, with PyTorch's non-reentrant function.

    Attributes:
        every: of how many layers one is checkpointed, where the version can leave some out.
        offload: keep what a layer is recomputed from in pinned host memory, where it can.
    """

    package: ClassVar[str] = "transformers"

    every: int = 1
    offload: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"transformers_checkpoint: every must be at least 1, not {self.every}")

    def refusal(self, model: nn.Module, device: torch.device) -> str | None:
        """No model of that library, or of a version that cannot do this."""
        switch = _switch_of(model)
        if switch is None or not getattr(model, "supports_gradient_checkpointing", True):
            return f"{type(model).__name__} is no model of transformers that has checkpointing"
        missing = sorted(set(self._more()) - set(inspect.signature(switch).parameters))
        if missing:
            return f"transformers {self.version()} has no {', '.join(missing)}"
        return IN_PLACE if self.offload and device.type == "cpu" else None

    def _more(self) -> dict[str, Any]:
        every = {"every_n_layers": self.every} if self.every != 1 else {}
        return every | ({"offload": True} if self.offload else {})

    def install(self, model: nn.Module, chain: Chain) -> Sequence[Undo]:  # noqa: ARG002
        """Turn it on."""
        switch = _switch_of(model)
        assert switch is not None
        return undoable(model, lambda: switch({"use_reentrant": False}, **self._more()))

    @classmethod
    def grid(cls) -> Sequence[Strategy]:
        """Every layer, every second, and off the device."""
        return (cls(), cls(every=2), cls(offload=True))


def _switch_of(model: nn.Module) -> Callable[..., object] | None:
    switches = (getattr(model, name, None) for name in _SWITCHES)
    return next(filter(callable, switches), None)
