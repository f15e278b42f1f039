"""The textbook's own compression functions, around every block."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from strategies.contract.floor import Floor
from strategies.contract.peer import Listing
from strategies.execution.chain import Chain
from strategies.storage.codecs import Fp16


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextbookCompressedCheckpoint(Listing):
    """``checkpoint_with_compression`` and ``restore_checkpoint`` of *Activation Compression*.

    The chapter does not say where they go. Here each block is checkpointed from the compressed
    tensor, the one way in which nothing but that is kept. The forward pass then runs on rounded
    values too, so that not only the gradient but also the loss is another one.
    """

    @property
    def exact(self) -> bool:
        """Never: values are rounded."""
        return False

    def floor(self, chain: Chain) -> Floor:
        """Of half precision in every block's boundary."""
        return Floor.of_stored(Fp16().relative_error(), len(chain))

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """From the first argument in half precision."""
        restored = functools.partial(_restored, function)
        compressed = checkpoint_with_compression(args[0])
        return checkpoint(restored, compressed, *args[1:], use_reentrant=False, **kwargs)


def _restored(function: Callable[..., Any], compressed: Tensor, *args: Any, **kwargs: Any) -> Any:
    return function(restore_checkpoint(compressed), *args, **kwargs)


def checkpoint_with_compression(x: Tensor) -> Tensor:
    """Compress: FP32 → FP16."""
    return x.half()


def restore_checkpoint(x_compressed: Tensor) -> Tensor:
    """Decompress: FP16 → FP32."""
    return x_compressed.float()
