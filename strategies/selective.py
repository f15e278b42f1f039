"""Checkpoint some sub-modules of every block, not the blocks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from strategies.base import Strategy, Undo, Unsupported
from strategies.chain import Chain
from strategies.execute import checkpoint_module, recompute, replace_forward

VARIANTS = ("textbook", "attention_core")

_NO_NORM = r"(?<!norm_)(?<!ln_)"
_ATTENTION = re.compile(rf"^(self_?)?(attn|attention)(_?\d+)?$|{_NO_NORM}attention$", re.IGNORECASE)
_FFN = re.compile(
    rf"^(mlp|ffn|ff|feed_?forward)(_?\d+)?$|{_NO_NORM}(mlp|feed_?forward)$", re.IGNORECASE
)
_CORE = re.compile(r"^(attention)?_?core$|core_?attention|dot_?product_?attention", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selective(Strategy):
    """Recompute what is expensive to keep inside a block, and keep the rest.

    Attributes:
        variant: ``textbook`` checkpoints attention and FFN sub-modules, but not norms, dropout and
            residual sums (the textbook's §3). ``attention_core`` checkpoints softmax(QKᵀ)V alone:
            most bytes for least compute (Korthikanti et al. 2022, arXiv 2205.05198, §5).

    Sub-modules are found by name and class (``attn``, ``attention``, ``mlp``, ``ffn``, ``core``).
    Where the core is no module, calls of ``scaled_dot_product_attention`` inside the attention
    module are checkpointed.
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
        if self.variant == "textbook":
            parts = self._of(chain, "attention or FFN", _ATTENTION, _FFN)
            return [checkpoint_module(part) for part in parts]
        cores = list(_find(chain.blocks, _CORE))
        if cores:
            return [checkpoint_module(core) for core in cores]
        attentions = self._of(chain, "attention", _ATTENTION)
        return [replace_forward(m, _WithCheckpointedCore(m)) for m in attentions]

    def _of(self, chain: Chain, what: str, *patterns: re.Pattern[str]) -> list[nn.Module]:
        found = list(_find(chain.blocks, *patterns))
        if not found:
            raise Unsupported(
                f"{self.spec()}: no {what} sub-module in the blocks (by name or class)"
            )
        return found

    @classmethod
    def grid(cls) -> Sequence[Strategy]:
        """Both variants."""
        return tuple(cls(variant=variant) for variant in VARIANTS)


def _find(blocks: Sequence[nn.Module], *patterns: re.Pattern[str]) -> Iterator[nn.Module]:
    """Sub-modules whose name or class matches, the outermost only, each once."""
    seen: set[int] = set()
    for block in blocks:
        for module in _inside(block, patterns):
            if id(module) not in seen:
                seen.add(id(module))
                yield module


def _inside(module: nn.Module, patterns: Sequence[re.Pattern[str]]) -> Iterator[nn.Module]:
    for name, child in module.named_children():
        if any(p.search(name) or p.search(type(child).__name__) for p in patterns):
            yield child
        else:
            yield from _inside(child, patterns)


class _CheckpointedCore(TorchFunctionMode):
    """Checkpoints each call of scaled dot-product attention."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Everything else passes."""
        if func is F.scaled_dot_product_attention:
            self.calls += 1
            return recompute(func, (), args, kwargs or {})
        return func(*args, **(kwargs or {}))


class _WithCheckpointedCore:
    """Stands in for an attention module's ``forward``.

    Raises:
        Unsupported: the module computes attention in another way.
    """

    def __init__(self, module: nn.Module) -> None:
        self.kind = type(module).__name__
        self.original: Callable[..., Any] = module.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.original(*args, **kwargs)
        with _CheckpointedCore() as mode:
            output = self.original(*args, **kwargs)
        if not mode.calls:
            raise Unsupported(
                f"selective(variant=attention_core): {self.kind} calls no"
                " scaled_dot_product_attention and has no core module"
            )
        return output
