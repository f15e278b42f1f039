"""What the image workloads share: bytes of text as pixels, and classification."""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor, nn

from bench.workloads import text
from bench.workloads.base import Batch, SizedWorkload

CHANNELS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageWorkload(SizedWorkload):
    """An image classifier.

    Attributes:
        image: Height and width in pixels.
        classes: Number of classes.
    """

    image: int
    classes: int = 1000

    def make_batch(self) -> Batch:
        """Images float32 ``[batch, 3, image, image]`` in −1 to 1, labels int64 ``[batch]``."""
        images = text.floats((self.batch, CHANNELS, self.image, self.image), self.seed)
        return images, text.labels(self.batch, self.classes, self.seed + 1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the label, in nats."""
        images, labels = batch
        return F.cross_entropy(model(images), labels)
