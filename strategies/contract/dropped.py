"""Blocks that a model drops at random while it trains (LayerDrop; Fan et al. 2019, 1909.11556)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from strategies.execution.undo import RestoreAttribute, Undo

_RATE = "layerdrop"


def none(model: nn.Module) -> list[Undo]:
    """Drop none: what a block costs shows when it runs, and a budget is of a step of all of them.

    The rate is an attribute of a module or of its configuration whose name ends in ``layerdrop``,
    as in fairseq and transformers.

    Returns:
        How to undo that.
    """
    undos: list[Undo] = []
    for owner, name in _rates(model):
        undos.append(RestoreAttribute.of(owner, name))
        owner.__dict__[name] = 0.0
    return undos


def _rates(model: nn.Module) -> Iterator[tuple[Any, str]]:
    owners: dict[int, Any] = {}
    for module in model.modules():
        owners |= {id(owner): owner for owner in (module, getattr(module, "config", None))}
    for owner in owners.values():
        for name, value in list(getattr(owner, "__dict__", {}).items()):
            if name.endswith(_RATE) and isinstance(value, float) and value > 0:
                yield owner, name
