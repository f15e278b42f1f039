"""PyTorch's selective checkpointing, with the policy that torchtitan trains by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from strategies.contract.peer import BlockPeer
from strategies.execution.dispatch import is_product

_aten = torch.ops.aten
# With a bias, which torchtitan's own layers lack, a product with a weight is another operator.
_WITH_WEIGHT = (_aten.mm.default, _aten.addmm.default, _aten.linear.default)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchSelectiveCheckpoint(BlockPeer):
    """Every block under a policy that keeps the outputs of products, but of every second matrix.

    torchtitan 0.3, ``distributed/activation_checkpoint.py``, ``SelectiveAC``: products, attention
    and convolutions are kept; of the products with a weight, every second is computed again.
    """

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """``checkpoint(…, context_fn=…)``, which stops recomputing where torchtitan does: late."""
        with torch.utils.checkpoint.set_checkpoint_early_stop(False):
            return checkpoint(function, *args, use_reentrant=False, context_fn=_contexts, **kwargs)


def _contexts() -> Any:
    return create_selective_checkpoint_contexts(_Policy())


class _Policy:
    """Counts the products with a weight, of forward and of recompute apart."""

    def __init__(self) -> None:
        self.counts = {False: 0, True: 0}

    def __call__(self, context: Any, func: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        """Keep it, or not."""
        del args, kwargs
        if func in _WITH_WEIGHT:
            self.counts[context.is_recompute] += 1
            if self.counts[context.is_recompute] % 2 == 0:
                return CheckpointPolicy.PREFER_RECOMPUTE
        kept = is_product(func)
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
