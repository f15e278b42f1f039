"""``timm:vit_base_patch16_224`` and ``torchvision:resnet50``: image models of two libraries."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from bench.workloads import text
from bench.workloads.base import Batch, Code
from bench.workloads.images import CHANNELS
from bench.workloads.sources import calls
from bench.workloads.sources.source import SourceWorkload

SIDE = 224
_SIDE_IN_NAME = re.compile(r"_(\d{3})(?=\.|$)")
_LEAST_SIDE, _SIDE_STEP = 128, 16
"""Of images that models are made for: what else a name ends in is something else."""
_LABELS = 256
"""Bytes of text, which are classes of any model with as many."""


def _timm(library: Any, name: str) -> Any:
    return library.create_model(name, pretrained=False)


def _torchvision(library: Any, name: str) -> Any:
    """Without weights of its own, and without those of a backbone, which would be downloaded."""
    builder = library.models.get_model_builder(name)
    taken = inspect.signature(builder).parameters
    return builder(**{one: None for one in ("weights", "weights_backbone") if one in taken})


MAKERS: dict[str, Callable[[Any, str], Any]] = {"timm": _timm, "torchvision": _torchvision}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesWorkload(SourceWorkload):
    """A classifier of images with random weights; cross-entropy of its logits.

    Attributes:
        batch: Examples per step.
        image: Side of the images, in pixels.
    """

    batch: int = 2
    image: int = SIDE

    @property
    def library(self) -> str:
        """Where the model is from."""
        return self.name.partition(":")[0]

    def make_model(self) -> nn.Module:
        """By the library's own function.

        Raises:
            InputError: the library cannot be imported, or has no such model.
        """
        name = self.name.partition(":")[2]
        try:
            model = MAKERS[self.library](importlib.import_module(self.library), name)
        except Exception as error:
            raise self.blame(error, None) from error
        assert isinstance(model, nn.Module)
        return model

    def default_batch(self) -> Batch:
        """Images float32 ``[batch, 3, image, image]`` in −1 to 1, and classes int64 ``[batch]``."""
        images = text.floats((self.batch, CHANNELS, self.image, self.image), self.seed)
        return images, text.labels(self.batch, _LABELS, self.seed + 1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy, in nats; of an output that is no logits, a mean of squares."""
        if self.criterion or self.inputs:
            return super().loss(model, batch)
        images, classes = batch
        output = model(images)
        is_logits = isinstance(output, Tensor) and output.dim() == 2
        loss = F.cross_entropy(output, classes) if is_logits else calls.default_loss(output)
        return calls.checked_loss(loss, lambda: self.place(model))

    def arguments(self) -> Mapping[str, Any]:
        """Sizes, too."""
        return {"batch": self.batch, "image": self.image, **super().arguments()}

    def asked(self) -> Mapping[str, Any]:
        """Sizes of the batch that are not the usual ones, where a function makes it."""
        return {**self.unusual(named(self.name), "batch", "image"), **super().asked()}

    def code(self) -> Code:
        """The library's version decides, too."""
        code = super().code()
        return code._replace(facts=f"{code.facts} {self.library} {_version(self.library)}")


def named(name: str) -> ImagesWorkload:
    """The workload of a library's model.

    Raises:
        ValueError: the library is not installed.
    """
    library, _, model = name.partition(":")
    if importlib.util.find_spec(library) is None:
        raise ValueError(f"{name} needs {library}, which is not installed: pip install {library}")
    return ImagesWorkload(
        name=name, summary=f"{model} of {library}", scale="real", image=_side(model)
    )


def _side(model: str) -> int:
    """Of the images that a model's name tells of: 100 in it is a width, in percent."""
    told = _SIDE_IN_NAME.search(model)
    side = int(told.group(1)) if told else SIDE
    return side if side >= _LEAST_SIDE and side % _SIDE_STEP == 0 else SIDE


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:  # on the path of imports all the same
        return "of no known version"
