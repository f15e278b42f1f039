"""PyTorch's own function for a chain that is cut into segments."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential

from strategies.contract.peer import Peer
from strategies.execution.chain import Chain
from strategies.execution.errors import Unsupported
from strategies.execution.stand_in import StandIn
from strategies.execution.undo import Undo


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchCheckpointSequential(Peer):
    """``torch.utils.checkpoint.checkpoint_sequential`` over all blocks of each container.

    All segments but the last are checkpointed. It hands one tensor from block to block, so models
    whose blocks take more, or read anything in between, it cannot run.

    Attributes:
        segments: of about equal length.
    """

    shown: ClassVar[tuple[str, ...]] = ("segments",)

    segments: int = 4

    def __post_init__(self) -> None:
        if self.segments < 1:
            raise ValueError(
                f"torch_checkpoint_sequential: segments must be at least 1, not {self.segments}"
            )

    def install(self, model: nn.Module, chain: Chain) -> Sequence[Undo]:  # noqa: ARG002
        """The first block of a container runs them all, the others hand on what they get."""
        undos: list[Undo] = []
        for span in chain.spans:
            rest = [_HandsOn(chain.blocks[index]) for index in span[1:]]
            first = _RunsAll(chain.blocks[span[0]], rest, min(self.segments, len(span)))
            undos += [one.install() for one in (first, *rest)]
        return undos


class _HandsOn(StandIn):
    """Of a block that has run already."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What came in; without gradients, as the module's own ``forward``."""
        if torch.is_grad_enabled():
            return self._single(args, kwargs)
        return self.original(*args, **kwargs)

    def _single(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The one argument.

        Raises:
            Unsupported: there are more.
        """
        given = [value for value in (*args[1:], *kwargs.values()) if value is not None]
        if len(args) != 1 or given:
            raise Unsupported(
                "torch_checkpoint_sequential: it hands on one tensor, and a block of this model"
                f" takes {len(args) + len(kwargs)} arguments"
            )
        return args[0]


class _RunsAll(_HandsOn):
    """Of the first block."""

    def __init__(self, module: nn.Module, rest: Sequence[StandIn], segments: int) -> None:
        super().__init__(module)
        self.rest, self.segments = rest, segments

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """All blocks; without gradients, as the module's own ``forward``."""
        if not torch.is_grad_enabled():
            return self.original(*args, **kwargs)
        functions = [self.original, *(one.original for one in self.rest)]
        single = self._single(args, kwargs)
        return checkpoint_sequential(functions, self.segments, single, use_reentrant=False)
