"""Models of torchvision, where it is installed."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from bench.architectures.base import HEADS, LAYERS, ROWS, WIDTH, Architecture, Built

SIDE = 64
CLASSES = 3


def torchvision(name: str, /, **options: Any) -> Architecture:
    """A model by its builder, or by its class; with images."""

    def build() -> Built:
        create = getattr(importlib.import_module("torchvision.models"), name)
        model = create(num_classes=CLASSES, **options)
        return model.train(), (torch.randn(ROWS, 3, SIDE, SIDE),)

    return Architecture("torchvision", build)


TORCHVISION = {
    "torchvision resnet": torchvision("resnet18"),
    "torchvision densenet": torchvision(
        "DenseNet", growth_rate=8, block_config=(2, 3, 4, 2), num_init_features=16
    ),
    "torchvision regnet": torchvision("regnet_x_400mf"),
    "torchvision efficientnet": torchvision("efficientnet_b0"),
    "torchvision mobilenet_v2": torchvision("mobilenet_v2", width_mult=0.5),
    "torchvision mobilenet_v3": torchvision("mobilenet_v3_small"),
    "torchvision mnasnet": torchvision("mnasnet0_5"),
    "torchvision shufflenet": torchvision("shufflenet_v2_x0_5"),
    "torchvision convnext": torchvision("convnext_tiny"),
    "torchvision googlenet": torchvision("googlenet", init_weights=False, aux_logits=False),
    "torchvision squeezenet": torchvision("squeezenet1_1"),
    "torchvision vit": torchvision(
        "VisionTransformer",
        image_size=SIDE,
        patch_size=16,
        num_layers=LAYERS,
        num_heads=HEADS,
        hidden_dim=WIDTH,
        mlp_dim=2 * WIDTH,
        dropout=0.1,
    ),
    "torchvision swin": torchvision(
        "SwinTransformer",
        patch_size=[4, 4],
        embed_dim=24,
        depths=[2, 2, 4, 2],
        num_heads=[2, 2, 4, 4],
        window_size=[4, 4],
        stochastic_depth_prob=0.2,
    ),
    "torchvision maxvit": torchvision(
        "MaxVit",
        input_size=(SIDE, SIDE),
        stem_channels=16,
        partition_size=2,
        block_channels=[16, 32],
        block_layers=[2, 2],
        head_dim=8,
        stochastic_depth_prob=0.2,
    ),
}
