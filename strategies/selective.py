"""Checkpoint some sub-modules of every block, not the blocks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from strategies.contract.strategy import Strategy
from strategies.execution import attention_core
from strategies.execution.attention_core import ATTENTION, NO_NORM
from strategies.execution.chain import Chain
from strategies.execution.checkpoint import checkpoint_module
from strategies.execution.undo import Undo

ATTENTION_CORE = "attention_core"
VARIANTS = ("textbook", ATTENTION_CORE)
_FFN = re.compile(
    rf"^(mlp|ffn|ff|feed_?forward)(_?\d+)?$|{NO_NORM}(mlp|feed_?forward)$", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selective(Strategy):
    """Recompute what is expensive to keep inside a block, and keep the rest.

    Attributes:
        variant: ``textbook`` checkpoints attention and FFN sub-modules, but not norms, dropout and
            residual sums (the textbook's §3). ``attention_core`` checkpoints softmax(QKᵀ)V alone:
            most bytes for least compute (Korthikanti et al. 2022, arXiv 2205.05198, §5).

    Sub-modules are found by name and class (``attn``, ``attention``, ``mlp``, ``ffn``, ``core``).
    Where the core is no module, calls of ``scaled_dot_product_attention`` inside the attention
    module are checkpointed; where there are none (``nn.MultiheadAttention``, ``eager`` attention of
    transformers), all of it but the projections and the weighted sum is computed again.
    """

    textbook_memory: ClassVar[str | None] = "O(L/2·N·d)"
    textbook_compute: ClassVar[str | None] = "~30–50 %"

    shown: ClassVar[tuple[str, ...]] = ("variant",)

    variant: str = "textbook"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            valid = ", ".join(VARIANTS)
            raise ValueError(f"selective: variant must be one of {valid}, not {self.variant!r}")

    def install(self, model: nn.Module, chain: Chain) -> Sequence[Undo]:  # noqa: ARG002
        """One checkpoint for each sub-module.

        Raises:
            Unsupported: the blocks hold no such sub-module.
        """
        if self.variant == ATTENTION_CORE:
            return attention_core.install(chain.holders, self.spec())
        what = "attention or FFN"
        parts = attention_core.expected(chain.holders, self.spec(), what, ATTENTION, _FFN)
        return [checkpoint_module(part) for part in parts]

    @classmethod
    def grid(cls) -> Sequence[Strategy]:
        """Both variants."""
        return tuple(cls(variant=variant) for variant in VARIANTS)
