"""The optimizers that a step may have, and the forms in which they run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTS = {"sgd": 1, "adamw": 2}
"""That each kind keeps of a parameter."""
FUSED, EIGHT_BIT = "-fused", "-8bit"
OPTIMIZERS = ("none", *(f"{kind}{form}" for form in ("", FUSED, EIGHT_BIT) for kind in MOMENTS))
RATE = 1e-6
"""Too small to disturb what is measured."""
BLOCK, LEAST = 256, 4096
"""Of bitsandbytes' and torchao's 8-bit optimizers: values that share one fp32 scale, and the least
values of a tensor that is kept in 8 bits."""
_LEVELS = 256


def make_optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer | None:
    """One of `OPTIMIZERS` over a model's parameters; ``None`` for ``none``.

    Stock ones of PyTorch; ``-fused`` updates in one kernel, without temporaries, and ``-8bit`` is
    `EightBit`.
    """
    if name.endswith(EIGHT_BIT):
        return EightBit(model.parameters(), MOMENTS[name.removesuffix(EIGHT_BIT)])
    kind, fused = name.removesuffix(FUSED), name.endswith(FUSED) or None  # None: PyTorch chooses
    if kind == "sgd":
        return torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, fused=fused)
    if kind == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=RATE, fused=fused)
    return None


def eight_bit_bytes(count: int) -> int:
    """Of a moment of so many values, each of one byte: with its scales."""
    return count + 4 * -(-count // BLOCK)


class EightBit(torch.optim.Optimizer):
    """What an optimizer of bitsandbytes holds in 8 bits, and when; not what its values are.

    A moment takes one byte a value and an fp32 scale (``absmax``) for each `BLOCK` of them; one of
    fewer than `LEAST` values stays in fp32. What the bytes stand for is in tables of 256 fp32
    values, one a moment, that all parameters share. A parameter is updated in place by one kernel.
    Source: Dettmers et al. 2022 («8-bit optimizers via block-wise quantization», §2) and
    ``bitsandbytes/optim/optimizer.py`` (`init_state`, `update_step`).

    Args:
        parameters: which.
        moments: for each parameter.
        block: values that share a scale; 2,048 before bitsandbytes 0.44.
    """

    def __init__(self, parameters: Iterable[Tensor], moments: int, block: int = BLOCK) -> None:
        super().__init__(parameters, {"lr": RATE})
        self.moments, self.block = moments, block
        self._tables: list[Tensor] = []

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update what has a gradient; state comes with the first."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    if not self.state[parameter]:
                        self.state[parameter] = self._state_of(parameter)
                    parameter.add_(parameter.grad, alpha=-group["lr"])

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        numbers = range(self.moments)
        count = parameter.numel()
        if count < LEAST:
            return {f"moment{n}": torch.zeros_like(parameter, dtype=torch.float32) for n in numbers}
        if not self._tables:
            self._tables = [parameter.new_zeros(_LEVELS, dtype=torch.float32) for _ in numbers]
        blocks = -(-count // self.block)
        return {
            **{f"moment{n}": torch.zeros_like(parameter, dtype=torch.uint8) for n in numbers},
            **{f"scales{n}": parameter.new_zeros(blocks, dtype=torch.float32) for n in numbers},
            **{f"table{n}": self._tables[n] for n in numbers},
        }
