"""PyTorch's composable checkpointing, by hooks on every block."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import nn

from strategies.contract.peer import Peer, undoable
from strategies.execution.chain import Chain
from strategies.execution.undo import Undo


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchComposableCheckpoint(Peer):
    """``torch.distributed._composable.checkpoint`` of every block: what FSDP2 is composed with."""

    def install(self, model: nn.Module, chain: Chain) -> Sequence[Undo]:
        """Two hooks a block."""
        from torch.distributed._composable.checkpoint_activation import checkpoint  # noqa: PLC0415 - slow

        blocks = dict.fromkeys(chain.blocks)
        return undoable(model, lambda: [checkpoint(block) for block in blocks])
