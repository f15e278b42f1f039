"""Says so when blocks that a strategy was put on are not those that the model trains."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from strategies.execution.chain import Chain
from strategies.execution.containers import parts_instead
from strategies.execution.stand_in import COMPILED, StandIn
from strategies.execution.state import WatchingStandIn
from strategies.execution.undo import Undo


def watch(model: nn.Module, chain: Chain, asker: str) -> list[Undo]:
    """Warn after the first training forward if a whole tower had no part in it.

    Args:
        model: under a strategy, which is given no example that would show it.
        chain: its blocks.
        asker: the strategy's specification, for the warning.
    """
    spans = zip(chain.paths, chain.spans, strict=True)
    towers = {path: [chain.names[index] for index in span] for path, span in spans}
    return [Watching(model, asker, towers).install()]


class Watching(StandIn):
    """Of the model.

    Attributes:
        asker: the strategy's specification.
        towers: names of blocks, by the path of their container.
        waiting: one element until a training forward was looked at; shared by all replicas.
    """

    def __init__(self, module: nn.Module, asker: str, towers: Mapping[str, Sequence[str]]) -> None:
        super().__init__(module)
        self.asker, self.towers = asker, towers
        self.waiting = [self.asker]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own ``forward``."""
        if torch.compiler.is_compiling() or torch._C._is_tracing():
            return self.original(*args, **kwargs)
        output = self.original(*args, **kwargs)
        if self.waiting and torch.is_grad_enabled() and self.module.training:
            self._look()
        return output

    def _look(self) -> None:
        try:
            self.waiting.pop()
        except IndexError:  # another replica was faster
            return
        idle = [path for path, names in self.towers.items() if self._is_idle(names)]
        if idle and not _is_anything_compiled():
            named = " and of ".join(path or "the model" for path in idle)
            modules = dict(self.module.named_modules())
            remedy = parts_instead((path, modules[path]) for path in idle if path in modules)
            warnings.warn(
                f"{self.asker}: in the first training step no block of {named} ran"
                " with gradients, so that nothing is saved there; if others ran, name them with"
                f" blocks=...{remedy}, and ask what did with example=...",
                RuntimeWarning,
                stacklevel=2,
            )

    def _is_idle(self, names: Sequence[str]) -> bool:
        """Whether all of it could be trained, is under the strategy, and did not run."""
        blocks = [self.module.get_submodule(name) for name in names]
        trained = any(p.requires_grad for block in blocks for p in block.parameters())
        trained = trained or torch._C._functorch.peek_interpreter_stack() is not None  # hides it
        ran = [each.state.ran for block in blocks for each in _watched(block)]
        return trained and bool(ran) and not any(ran)


def _watched(block: nn.Module) -> Iterator[WatchingStandIn]:
    """What a strategy put in a block, or in the modules inside it."""
    for module in block.modules():
        for entry in ("forward", COMPILED):
            stand_in = module.__dict__.get(entry)
            while isinstance(stand_in, StandIn):
                if isinstance(stand_in, WatchingStandIn):
                    yield stand_in
                stand_in = stand_in.inner


def _is_anything_compiled() -> bool:
    """What a compiler runs is not seen to run."""
    dynamo: Any = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and bool(dynamo.counters["frames"]["total"])
