"""Convolutional networks, as torchvision builds them; the loss is the sum of what they give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bench import workloads
from bench.published.loops import training
from bench.published.subject import Builder, Options, Subject

_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Channels of each convolution; 0 is a pooling by two."""
# Expansion, channels, repeats, stride: table 2 of Sandler et al. 2018.
_MOBILENET = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def vgg16() -> nn.Module:
    """VGG-16 without batch norms (Simonyan and Zisserman 2015)."""
    return nn.Sequential(*_vgg_layers(), nn.AdaptiveAvgPool2d(7), nn.Flatten(), *_vgg_head())


def _vgg_layers() -> Iterator[nn.Module]:
    before = 3
    for channels in _VGG16:
        if channels:
            yield nn.Conv2d(before, channels, 3, padding=1)
            yield nn.ReLU(inplace=True)
            before = channels
        else:
            yield nn.MaxPool2d(2)


def _vgg_head() -> list[nn.Module]:
    wide = [nn.Linear(512 * 7 * 7, 4096), nn.ReLU(inplace=True), nn.Dropout()]
    return [
        *wide,
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 1000),
    ]


def _normed(
    before: int, after: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Module:
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    # In place of ReLU6, which kept its result in the PyTorch of 2020, and copies its input today.
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class InvertedResidual(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, before: int, after: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        parts = [] if expansion == 1 else [_normed(before, wide)]
        parts += [_normed(wide, wide, 3, stride, wide)]
        parts += [nn.Conv2d(wide, after, 1, bias=False), nn.BatchNorm2d(after)]
        self.conv, self.adds = nn.Sequential(*parts), stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """Images to the same."""
        out: Tensor = x + self.conv(x) if self.adds else self.conv(x)
        return out


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018)."""
    blocks, before = [_normed(3, 32, 3, 2)], 32
    for expansion, channels, repeats, stride in _MOBILENET:
        for number in range(repeats):
            blocks.append(InvertedResidual(before, channels, 1 if number else stride, expansion))
            before = channels
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, 1000)]
    return nn.Sequential(*blocks, _normed(320, 1280), *head)


def resnet50() -> nn.Module:
    """This project's own, with a thousand classes."""
    return workloads.get("resnet50").with_options(image=224, classes=1000).build()


_MODELS = {"vgg16": vgg16, "mobilenet_v2": mobilenet_v2, "resnet50": resnet50}


def images(options: Options) -> Subject:
    """``model`` on ``batch`` square images of ``pixels``; ``loop`` as `training` takes it."""
    model = _MODELS[options["model"]]().train()
    batch = torch.randn(options["batch"], 3, options["pixels"], options["pixels"])

    def run() -> tuple[Any, Tensor]:
        out = model(batch)
        return out, out.sum()

    return training(model, run, [batch], options["loop"])


VISION: dict[str, Builder] = {"images": images}
