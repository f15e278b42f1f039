"""Running statistics, which a recompute must not update a second time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class FrozenStatistics:
    """Lets batch norms run again without updating their running statistics a second time.

    They see copies of their buffers meanwhile.
    """

    def __init__(self, norms: Sequence[nn.Module]) -> None:
        self.norms = norms
        self.swapped: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        """Swap copies in."""
        for norm in self.norms:
            for name, buffer in norm._buffers.items():
                if buffer is not None:
                    self.swapped.append((norm, name, buffer))
                    norm._buffers[name] = buffer.clone()

    def __exit__(self, *exception: object) -> None:
        """Put the buffers back."""
        while self.swapped:
            norm, name, buffer = self.swapped.pop()
            norm._buffers[name] = buffer
