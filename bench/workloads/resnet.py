"""Bottleneck ResNets: blocks of unequal cost, in four chains, with batch statistics."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from bench.workloads.base import Workload
from bench.workloads.images import CHANNELS, ImageWorkload

# Blocks in total to blocks a stage; each block has 3 convolutions, the stem and head add 2.
STAGES = {
    4: (1, 1, 1, 1),  # ResNet-14
    8: (2, 2, 2, 2),  # ResNet-26
    16: (3, 4, 6, 3),  # ResNet-50
    33: (3, 4, 23, 3),  # ResNet-101
    50: (3, 8, 36, 3),  # ResNet-152
}
EXPANSION = 4
REDUCTION = 32  # pixels of the image to one of the last stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResnetWorkload(ImageWorkload):
    """A ResNet that classifies images.

    ``layers`` counts bottleneck blocks over the four stages, one of the published depths
    (`STAGES`); ``dim`` is the stem's channels, 64 in the papers.
    """

    blocks: ClassVar[str] = "layer1,layer2,layer3,layer4"

    def build(self) -> nn.Module:
        """A `Resnet`."""
        return Resnet(self)

    def validate(self) -> None:
        """Raise ``ValueError`` when fields do not fit together."""
        if self.layers not in STAGES:
            depths = ", ".join(map(str, STAGES))
            raise ValueError(f"layers of a ResNet must be one of {depths}, not {self.layers}")
        if self.batch * math.ceil(self.image / REDUCTION) ** 2 < 2:
            raise ValueError(
                f"batch statistics need two values: batch {self.batch} of {self.image} pixels "
                f"leaves one (raise the batch or have more than {REDUCTION} pixels)"
            )


def _conv(wide_in: int, wide_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, since a batch norm follows, that keeps the size."""
    conv = nn.Conv2d(wide_in, wide_out, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions round a shortcut; the 3×3 one carries the stride.

    Nothing is done in place: what is saved for backward is the same, and a strategy may hold a
    result that an in-place operation would overwrite.
    """

    def __init__(self, wide_in: int, width: int, stride: int) -> None:
        super().__init__()
        wide_out = width * EXPANSION
        self.conv1, self.bn1 = _conv(wide_in, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, wide_out, 1), nn.BatchNorm2d(wide_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or wide_in != wide_out:
            shortcut = _conv(wide_in, wide_out, 1, stride)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(wide_out))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, wide_in, S, S]`` to ``[B, 4·width, S/stride, S/stride]``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


def _stage(wide_in: int, width: int, count: int, stride: int) -> nn.Sequential:
    first = Bottleneck(wide_in, width, stride)
    rest = (Bottleneck(width * EXPANSION, width, 1) for _ in range(count - 1))
    return nn.Sequential(first, *rest)


class Resnet(nn.Module):
    """The model; each stage is an ``nn.Sequential`` of bottlenecks."""

    def __init__(self, shape: ResnetWorkload) -> None:
        super().__init__()
        width, counts = shape.dim, STAGES[shape.layers]
        self.conv1, self.bn1 = _conv(CHANNELS, width, 7, 2), nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = _stage(width, width, counts[0], 1)
        self.layer2 = _stage(4 * width, 2 * width, counts[1], 2)
        self.layer3 = _stage(8 * width, 4 * width, counts[2], 2)
        self.layer4 = _stage(16 * width, 8 * width, counts[3], 2)
        self.fc = nn.Linear(32 * width, shape.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, 3, image, image]`` to logits ``[B, classes]``."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


WORKLOADS: tuple[Workload, ...] = (
    ResnetWorkload(
        name="resnet50",
        summary="ResNet-50 on 64-pixel images",
        scale="real",
        layers=16,
        dim=64,
        image=64,
        batch=8,
    ),
    ResnetWorkload(
        name="resnet-mini",
        summary="Narrow ResNet-14 on 64-pixel images",
        layers=4,
        dim=8,
        image=64,
        batch=4,
        classes=10,
    ),
)
