"""Finds attention inside blocks, and checkpoints softmax(QKᵀ)V alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from strategies.execution import core_policy
from strategies.execution.checkpoint import checkpoint_module, recompute
from strategies.execution.errors import Unsupported
from strategies.execution.recording import is_recorded
from strategies.execution.state import WatchingStandIn
from strategies.execution.undo import Undo

NO_NORM = r"(?<!norm_)(?<!ln_)"
ATTENTION = re.compile(rf"^(self_?)?(attn|attention)(_?\d+)?$|{NO_NORM}attention$", re.IGNORECASE)
_SOFTMAX = frozenset({F.softmax, torch.softmax, Tensor.softmax})
_CORE = re.compile(r"^(attention)?_?core$|core_?attention|dot_?product_?attention", re.IGNORECASE)


def install(blocks: Sequence[nn.Module], asker: str) -> list[Undo]:
    """Put softmax(QKᵀ)V of every block under a checkpoint.

    Args:
        blocks: whose attention is meant.
        asker: the specification of the strategy, for the refusal.

    Raises:
        Unsupported: the blocks hold no attention.
    """
    cores = list(sub_modules(blocks, _CORE))
    if cores:
        return [checkpoint_module(core) for core in cores]
    eager: set[type] = set()
    attentions = map(_innermost, expected(blocks, asker, "attention", ATTENTION))
    return [_WithCheckpointedCore(module, asker, eager).install() for module in attentions]


def expected(
    blocks: Sequence[nn.Module], asker: str, what: str, *patterns: re.Pattern[str]
) -> list[nn.Module]:
    """The sub-modules that must be there.

    Raises:
        Unsupported: there are none.
    """
    modules = list(sub_modules(blocks, *patterns))
    if not modules:
        raise Unsupported(f"{asker}: no {what} sub-module in the blocks (by name or class)")
    return modules


def sub_modules(blocks: Sequence[nn.Module], *patterns: re.Pattern[str]) -> Iterator[nn.Module]:
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


def _innermost(attention: nn.Module) -> nn.Module:
    """The attention proper in one that adds a projection and a norm (BERT)."""
    inner = [
        m for m in sub_modules([attention], ATTENTION) if next(m.parameters(), None) is not None
    ]
    return _innermost(inner[0]) if len(inner) == 1 else attention


class _CheckpointedCore(TorchFunctionMode):
    """Checkpoints each call of scaled dot-product attention.

    Attributes:
        calls: how many there were.
        softmaxes: how many of a softmax there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.softmaxes = 0

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
            return recompute(func, None, args, kwargs or {})
        self.softmaxes += func in _SOFTMAX
        return func(*args, **(kwargs or {}))


class _WithCheckpointedCore(WatchingStandIn):
    """Checkpoints the core of an attention module.

    Attributes:
        asker: the specification of the strategy, for the refusal.
        eager: classes known to compute attention operator by operator, shared by all modules: of
            those that cannot be told by their looks, the first call of the first one shows it.

    Raises:
        Unsupported: the module computes no attention.
    """

    def __init__(self, module: nn.Module, asker: str, eager: set[type]) -> None:
        super().__init__(module)
        self.asker, self.eager = asker, eager

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not is_recorded():
            return self.original(*args, **kwargs)
        if type(self.module) in self.eager or _looks_eager(self.module):
            return recompute(self.original, self.state, args, kwargs, core_policy.contexts)
        if not torch.compiler.is_compiling():
            self.state.ran = True  # unlike the state of all of it, which is not watched here
        with _CheckpointedCore() as mode:
            output = self.original(*args, **kwargs)
        if not mode.calls:
            self._learn(mode)
        return output

    def _learn(self, mode: _CheckpointedCore) -> None:
        if not mode.softmaxes:
            raise Unsupported(
                f"{self.asker}: {type(self.module).__name__} has no core module, calls neither"
                " scaled_dot_product_attention nor softmax, and so has no core to recompute; use"
                " selective(variant=textbook)"
            )
        self.eager.add(type(self.module))


def _looks_eager(module: nn.Module) -> bool:
    """PyTorch's own, which hides what it calls, and transformers' by their configuration."""
    config = getattr(module, "config", None)
    implementation = getattr(config, "_attn_implementation", None)
    return isinstance(module, nn.MultiheadAttention) or implementation == "eager"
