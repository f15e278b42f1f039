"""Caches of keys and values, which every recompute would fill again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from strategies.execution.chain import Chain
from strategies.execution.stand_in import StandIn
from strategies.execution.undo import Undo


def turn_off(model: nn.Module, chain: Chain) -> list[Undo]:
    """Models of the transformers library build none while gradients are recorded.

    Their configuration says so during a forward alone: saved meanwhile, it is what it was.

    Returns:
        How to undo that.
    """
    configs: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and getattr(config, "use_cache", None) is True:
            configs[id(config)] = config
    around = dict.fromkeys(_around(chain.paths)) if configs else ()
    return [WithoutCaches(model.get_submodule(path), configs.values()).install() for path in around]


def _around(paths: Iterable[str]) -> Iterable[str]:
    """The paths of the modules that hold containers, the model itself first."""
    yield ""
    for path in paths:
        parts = path.split(".")
        yield from (".".join(parts[:end]) for end in range(1, len(parts)))


class WithoutCaches(StandIn):
    """Runs a model whose configuration asks for caches as if it did not."""

    def __init__(self, module: nn.Module, configs: Iterable[Any]) -> None:
        super().__init__(module)
        self.configs = list(configs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own ``forward``; without gradients (``generate``) with its caches."""
        if not torch.is_grad_enabled():
            return self.original(*args, **kwargs)
        changed = [config for config in self.configs if config.use_cache is True]
        for config in changed:
            config.use_cache = False
        try:
            return self.original(*args, **kwargs)
        finally:
            for config in changed:
                config.use_cache = True
