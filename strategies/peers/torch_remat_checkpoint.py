"""torch_remat's region, around every block."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from strategies.contract.peer import BlockPeer


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchRematCheckpoint(BlockPeer):
    """``torch_remat.checkpoint()(block)(x)``, with nothing in the block marked to be kept.

    It restores no random state, by design: a block that draws random numbers needs a hook of its
    own. It does not stop early, so what comes after a block's last product runs again too.
    """

    package: ClassVar[str] = "torch_remat"

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One region a block."""
        import torch_remat  # noqa: PLC0415 - optional

        return torch_remat.checkpoint()(function)(*args, **kwargs)
