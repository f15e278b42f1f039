"""FLOPs by counting: every operator that runs, by PyTorch's own formulas."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from strategies.execution.dispatch import Onlooker, flops_of, in_recompute


class FlopCounter(Onlooker):
    """Counts while it is active; recompute apart."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.recompute_flops = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator and add its FLOPs."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        flops = flops_of(func, args, kwargs, out)
        self.flops += flops
        if flops and in_recompute():
            self.recompute_flops += flops
        return out


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOPs of one training step.

    Attributes:
        forward_flops: until the loss.
        step_flops: forward and backward.
        recompute_flops: forward work that ran again during backward.
    """

    forward_flops: int
    step_flops: int
    recompute_flops: int


def count_flops(forward: Callable[[], Tensor], backward: Callable[[Tensor], None]) -> Flops:
    """Count one step."""
    with FlopCounter() as counter:
        loss = forward()
        forward_flops = counter.flops
        backward(loss)
    return Flops(forward_flops, counter.flops, counter.recompute_flops)
