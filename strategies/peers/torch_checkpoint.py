"""PyTorch's own function, around every block."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.checkpoint import checkpoint

from strategies.contract.peer import BlockPeer
from strategies.contract.strategy import Strategy


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchCheckpoint(BlockPeer):
    """``torch.utils.checkpoint.checkpoint`` in the loop over the blocks, as the textbook has it.

    Attributes:
        reentrant: the older implementation, which runs an autograd of its own inside backward.
    """

    reentrant: bool = False

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """``checkpoint(layer, x, use_reentrant=False)``."""
        return checkpoint(function, *args, use_reentrant=self.reentrant, **kwargs)

    @classmethod
    def grid(cls) -> Sequence[Strategy]:
        """Both implementations."""
        return (cls(), cls(reentrant=True))
