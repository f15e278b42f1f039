"""The textbook's own offloading module."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from strategies.contract.peer import Listing
from strategies.execution.chain import Chain
from strategies.execution.stand_in import StandIn
from strategies.execution.undo import RestoreAttribute, Undo


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextbookOffloadCheckpoint(Listing):
    """``OffloadCheckpoint`` of the chapter's section *Advanced: Offloading*, around the blocks.

    Its forward copies the first block's input to host memory and then runs the blocks as they are:
    autograd keeps what it always keeps. ``backward_hook`` is registered nowhere, so the copy is
    never read.
    """

    def install(self, model: nn.Module, chain: Chain) -> Sequence[Undo]:  # noqa: ARG002
        """At the entry of each container, where the textbook's forward begins."""
        firsts = [chain.blocks[span[0]] for span in chain.spans]
        undos: list[Undo] = []
        for block in firsts:
            undos += [RestoreAttribute.of(block, "checkpoint"), _Offloading(block).install()]
        return undos

    def run(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Each block runs as it is."""
        return function(*args, **kwargs)


class _Offloading(StandIn):
    """Of the first block."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Keep a copy of the input, for nobody."""
        if torch.is_grad_enabled() and args and isinstance(args[0], Tensor):
            self.module.__dict__["checkpoint"] = args[0].cpu()
        return self.original(*args, **kwargs)
