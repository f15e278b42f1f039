"""Small models of test suites, in which every operator's fate is chosen."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from bench.published.subject import Builder, Mark, Options, Subject


class ThreeProducts(nn.Module):
    """torchtitan's toy block: two square products, one twice as wide, and a sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, width, bias=False)
        self.wq = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[width, width]`` to a number."""
        out: Tensor = self.output(self.wq(self.gate(x))).sum()
        return out


def _keeping(kept: Collection[int]) -> Any:
    """A policy's contexts: of the matrix products, in order, those are kept."""

    def contexts() -> Any:
        counted = {False: 0, True: 0}

        def policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
            del args, kwargs
            if operator is not torch.ops.aten.mm.default:
                return CheckpointPolicy.PREFER_RECOMPUTE
            number = counted[context.is_recompute]
            counted[context.is_recompute] += 1
            keep = number in kept
            return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

        return create_selective_checkpoint_contexts(policy)

    return contexts


def three_products(options: Options) -> Subject:
    """One block on ``width`` × ``width`` values; ``kept`` products survive (absent: no checkpoint).

    Gradients add up; the loss lives until the next one replaces it.
    """
    width, kept = options["width"], options.get("kept")
    block = ThreeProducts(width)
    x = torch.randn(width, width, requires_grad=True)
    held: list[Tensor] = []

    def forward() -> Tensor:
        if kept is None:
            return block(x)  # type: ignore[no-any-return]
        given: dict[str, Any] = {"context_fn": _keeping(kept)} if kept else {}
        out: Tensor = checkpoint(block, x, use_reentrant=False, **given)
        return out

    def step(mark: Mark) -> None:
        held[:] = [forward()]
        mark("forward")
        held[0].backward()

    return Subject(step, [block], [x])


TOYS: dict[str, Builder] = {"three_products": three_products}
