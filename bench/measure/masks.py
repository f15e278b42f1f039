"""What dropout drops in a step, to be dropped again in the same step of another precision.

Which random numbers an accelerator's kernel gives to which element depends on how many elements a
thread loads at once, and so on their size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bench.cells.training import TrainingStep
from bench.measure import gradients


class _Dropout(TorchFunctionMode):
    """Replaces dropout that drops something."""

    def __init__(self, replacement: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__()
        self.replacement = replacement

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Dropout in training, out of place; all else as it is."""
        if func is not F.dropout:
            return func(*args, **(kwargs or {}))
        return self._dropout(*args, **(kwargs or {}))

    def _dropout(
        self,
        input: Tensor,  # noqa: A002 - the name that callers use
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
    ) -> Tensor:
        if not training or not 0 < p < 1 or inplace:
            return F.dropout(input, p, training, inplace)
        return self.replacement(input, p)


def of_step(step: TrainingStep, seed: int) -> list[Tensor]:
    """Boolean masks of what is kept, in order; of a CPU none are needed.

    Args:
        step: runs once without its optimizer; gradients are dropped, buffers restored.
        seed: of its random numbers.
    """
    if step.device.type == "cpu":
        return []
    return recorded(step, seed)


def recorded(step: TrainingStep, seed: int) -> list[Tensor]:
    """As `of_step`, on any device. The fused kernel, which is an accelerator's only one, tells."""
    masks: list[Tensor] = []

    def noting(tensor: Tensor, p: float) -> Tensor:
        out, mask = torch.native_dropout(tensor, p, train=True)
        masks.append(mask)
        return out

    with _Dropout(noting):
        gradients.run(step, seed)
    return masks


@contextlib.contextmanager
def replayed(masks: Sequence[Tensor]) -> Iterator[None]:
    """Within, dropout drops what ``masks`` say, one after the other; with none, as ever."""
    if not masks:
        yield
        return
    coming = iter(masks)
    with _Dropout(lambda tensor, p: tensor * next(coming).to(tensor.dtype) / (1 - p)):
        yield
