"""Running statistics, which a recompute must not update a second time."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def keeps_statistics(module: nn.Module) -> bool:
    """Whether it updates running statistics, on which its output does not depend."""
    return isinstance(module, _NormBase) and module.training


class FrozenStatistics:
    """Lets modules run again without updating their running statistics a second time.

    Batch norms see copies of their buffers meanwhile. Can be entered again: a graph that is
    retained is recomputed at every backward.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.swapped: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        """Swap copies in."""
        for norm in filter(keeps_statistics, self.root.modules()):
            for name, buffer in norm._buffers.items():
                if buffer is not None:
                    self.swapped.append((norm, name, buffer))
                    norm._buffers[name] = buffer.clone()

    def __exit__(self, *exception: object) -> None:
        """Put the buffers back."""
        while self.swapped:
            norm, name, buffer = self.swapped.pop()
            norm._buffers[name] = buffer
