"""Models of timm, torchvision and diffusers, where they are installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from bench.architectures.base import HEADS, ROWS, WIDTH, Architecture, Batch, Built, integers


def timm(name: str, size: int = 64, **options: Any) -> Architecture:
    """A model of timm; images of ``size`` pixels."""

    def build() -> Built:
        create = importlib.import_module("timm").create_model
        model = create(name, pretrained=False, num_classes=3, **options)
        return model.train(), (torch.randn(ROWS, 3, size, size),)

    return Architecture("timm", build)


def torchvision(name: str, size: int = 64, **options: Any) -> Architecture:
    """A model of torchvision; images of ``size`` pixels."""

    def build() -> Built:
        create = getattr(importlib.import_module("torchvision.models"), name)
        model = create(weights=None, num_classes=3, **options)
        return model.train(), (torch.randn(ROWS, 3, size, size),)

    return Architecture("torchvision", build)


def diffusers(name: str, batch: Callable[[], Batch], **options: Any) -> Architecture:
    """A model of diffusers."""

    def build() -> Built:
        kind = getattr(importlib.import_module("diffusers"), name)
        return kind(**options).train(), batch()

    return Architecture("diffusers", build)


def conditioned() -> Batch:
    """A noisy image, when it is, and text."""
    return {
        "sample": torch.randn(ROWS, 4, 16, 16),
        "timestep": torch.tensor([3] * ROWS),
        "encoder_hidden_states": torch.randn(ROWS, 8, WIDTH),
    }


def labelled() -> Batch:
    """A noisy image, when it is, and its class."""
    return {
        "hidden_states": torch.randn(ROWS, 4, 16, 16),
        "timestep": torch.tensor([3] * ROWS),
        "class_labels": integers(ROWS, low=0, high=3),
    }


def flux() -> Batch:
    """Tokens of an image and of text."""
    return {
        "hidden_states": torch.randn(ROWS, 16, 4),
        "encoder_hidden_states": torch.randn(ROWS, 8, WIDTH),
        "pooled_projections": torch.randn(ROWS, WIDTH),
        "timestep": torch.rand(ROWS),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(8, 3),
    }


def image() -> Batch:
    """An image to code and decode."""
    return {"sample": torch.randn(ROWS, 3, 32, 32)}


STAGES = {
    "block_out_channels": (16, 32),
    "layers_per_block": 2,
    "norm_num_groups": 4,
}

OPTIONAL = {
    "timm vit": timm(
        "vit_tiny_patch16_224", img_size=64, embed_dim=WIDTH, num_heads=HEADS, depth=6
    ),
    "timm swin": timm("swin_tiny_patch4_window7_224", 64, img_size=64, embed_dim=24, window_size=4),
    "timm regnet": timm("regnetx_002"),
    "timm efficientnet": timm("efficientnet_b0"),
    "torchvision resnet": torchvision("resnet18"),
    "torchvision densenet": torchvision(
        "densenet121", growth_rate=8, block_config=(2, 3, 4, 2), num_init_features=16
    ),
    "torchvision swin": torchvision("swin_t"),
    "diffusers UNet2DConditionModel": diffusers(
        "UNet2DConditionModel",
        conditioned,
        **STAGES,
        sample_size=16,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ),
    "diffusers Flux": diffusers(
        "FluxTransformer2DModel",
        flux,
        in_channels=4,
        num_layers=3,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    ),
    "diffusers DiT": diffusers(
        "DiTTransformer2DModel",
        labelled,
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        num_layers=6,
        sample_size=16,
        num_embeds_ada_norm=10,
    ),
    "diffusers AutoencoderKL": diffusers(
        "AutoencoderKL",
        image,
        **STAGES,
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ),
}
