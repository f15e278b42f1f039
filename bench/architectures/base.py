"""What an architecture is: a tiny model with a batch, built from a configuration, no download."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Batch = Mapping[str, Any] | tuple[Tensor, ...]
Built = tuple[nn.Module, Batch]

LAYERS = 6
WIDTH = 32
HEADS = 4
VOCABULARY = 64
ROWS = 2
POSITIONS = 24


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A model that is built in a moment.

    Attributes:
        library: that must be installed; ``torch`` always is.
        build: the model, in training mode, and its batch; from the global generators.
    """

    library: str
    build: Callable[[], Built]

    @property
    def installed(self) -> bool:
        """Whether its library is here."""
        return importlib.util.find_spec(self.library) is not None


def transformers(model: str, batch: Callable[[], Batch], /, **options: Any) -> Architecture:
    """A model of the transformers library.

    Args:
        model: its class.
        batch: what it is called with.
        options: of its configuration; a mapping is a configuration within it.
    """

    def build() -> Built:
        kind = getattr(importlib.import_module("transformers"), model)
        return kind(kind.config_class(**options)).train(), batch()

    return Architecture("transformers", build)


def integers(*shape: int, low: int = 3, high: int = VOCABULARY) -> Tensor:
    """Random numbers of tokens; the first three are for padding, beginning and end."""
    return torch.randint(low, high, shape)
