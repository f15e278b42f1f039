"""What budgets are promised for: models of the workloads and of the catalogue, with batch and loss.

A training loop as users write it calls the model, takes a loss of its output and holds both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import strategies
from bench import architectures, workloads
from bench.measure import generators
from bench.studies import models
from strategies.contract import dropped

NAMES = (
    "gpt-mini",
    "llama-mini",
    "vit-mini",
    "resnet50",
    "t5",
    "bart",
    "whisper",
    "gemma2",
    "detr",
    "swin",
    "nn.Transformer",
    "mixtral",
    "U-Net",
)
"""Studied if none is named: text, images, sound; one tower and two; skips; experts."""

DRAWS = 16
"""Of a batch of the catalogue's, put together. One is for a check, and lets weights outweigh what
blocks save: a budget would have nothing to choose (of DETR none below the whole peak)."""
BATCH = {"vit-mini": 16, "resnet50": 16}
"""Of workloads whose own is as small."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model to be trained.

    Attributes:
        model: in training mode.
        batch: what it is called with: positional arguments or a mapping of keywords.
        loss: of its output, a scalar.
        targets: that it holds, where they are; copied to another device in each step.
    """

    model: nn.Module
    batch: Any
    loss: Callable[[Any], Tensor]
    targets: tuple[Tensor, ...] = ()

    def to(self, device: torch.device) -> Subject:
        """The same on a device."""
        batch = tree_map(lambda v: v.to(device) if isinstance(v, Tensor) else v, self.batch)
        return dataclasses.replace(self, model=self.model.to(device), batch=batch)


def library_of(name: str) -> str:
    """The library of a subject's model.

    Raises:
        ValueError: there is no such subject.
    """
    return "torch" if name in workloads.available() else architectures.get(name).library


def build(name: str, seed: int = 0) -> Subject:
    """A subject, the same for the same name and seed; it drops no layers, so that steps are equal.

    Raises:
        ValueError: there is no such subject.
        strategies.Unsupported: its library is not installed.
    """
    generators.seed_all(seed)
    if name in workloads.available():
        return _workload(name, seed)
    architecture = architectures.get(name)
    if not architecture.installed:
        raise strategies.Unsupported(f"{architecture.library} is not installed")
    model, batch = architecture.build()
    dropped.none(model)
    return Subject(models.without_caches(model), _enlarged(architecture, batch), models.loss_of)


def _enlarged(architecture: architectures.Architecture, batch: Any) -> Any:
    """Rows of several draws: no row is another's copy, so that experts differ."""
    more = [architecture.build()[1] for _ in range(DRAWS - 1)]
    return tree_map(_rows, batch, *more)


def _rows(first: Any, *more: Any) -> Any:
    return torch.cat([first, *more]) if isinstance(first, Tensor) else first


def _workload(name: str, seed: int) -> Subject:
    sizes = {"batch": BATCH[name]} if name in BATCH else {}
    workload = workloads.get(name, seed=seed, **sizes)
    inputs, targets = workload.make_batch()

    def loss(output: Any) -> Tensor:
        model = cast("nn.Module", lambda _: output)  # the workload calls the model itself
        return workload.loss(model, (inputs, targets.to(output.device)))

    return Subject(workload.model(), (inputs,), loss, (targets,))
