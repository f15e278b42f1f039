"""Caches of keys and values, which every recompute would fill again."""

from __future__ import annotations

from torch import nn

from strategies.execution.undo import RestoreAttribute, Undo


def turn_off(model: nn.Module) -> list[Undo]:
    """Models of the transformers library build none meanwhile; returns how to undo that."""
    undos: list[Undo] = []
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and getattr(config, "use_cache", None) is True:
            undos.append(RestoreAttribute.of(config, "use_cache"))
            config.use_cache = False
    return undos
