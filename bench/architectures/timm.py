"""Models of timm, where it is installed: vision transformers, convolutions, both."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from bench.architectures.base import HEADS, LAYERS, ROWS, WIDTH, Architecture, Built

SIDE = 64
CLASSES = 3
SIZE: dict[str, Any] = {"img_size": SIDE}
PLAIN: dict[str, Any] = {**SIZE, "embed_dim": WIDTH, "num_heads": HEADS, "depth": LAYERS}
DROPPING: dict[str, Any] = {**PLAIN, "drop_path_rate": 0.2}
WINDOWS: dict[str, Any] = {**SIZE, "embed_dim": 24, "window_size": 4, "drop_path_rate": 0.2}


def timm(name: str, **options: Any) -> Architecture:
    """A model of timm, made with ``options``, with images."""

    def build() -> Built:
        create = importlib.import_module("timm").create_model
        model = create(name, pretrained=False, num_classes=CLASSES, **options)
        return model.train(), (torch.randn(ROWS, 3, SIDE, SIDE),)

    return Architecture("timm", build)


TIMM = {
    "timm vit": timm("vit_tiny_patch16_224", **PLAIN),
    "timm deit3": timm("deit3_small_patch16_224", **DROPPING),
    "timm beit": timm("beit_base_patch16_224", **DROPPING),
    "timm eva02": timm("eva02_tiny_patch14_224", patch_size=16, **DROPPING),
    "timm cait": timm("cait_xxs24_224", **DROPPING),
    "timm xcit": timm("xcit_nano_12_p16_224", **PLAIN),
    "timm mixer": timm("mixer_s32_224", **SIZE, drop_rate=0.1),
    "timm swin": timm("swin_tiny_patch4_window7_224", **WINDOWS),
    "timm swinv2": timm("swinv2_tiny_window8_256", **WINDOWS),
    "timm hiera": timm("hiera_tiny_224", img_size=(SIDE, SIDE), embed_dim=24),
    "timm twins": timm(
        "twins_svt_small", **SIZE, embed_dims=(16, 32, 48, 64), num_heads=(2, 2, 2, 2)
    ),
    "timm pvt_v2": timm("pvt_v2_b0", embed_dims=(16, 32, 48, 64), num_heads=(1, 2, 2, 4)),
    "timm davit": timm(
        "davit_tiny", embed_dims=(16, 24, 32, 48), num_heads=(2, 2, 2, 2), depths=(1, 1, 3, 1)
    ),
    "timm maxvit": timm("maxvit_rmlp_pico_rw_256", **SIZE),
    "timm mobilevit": timm("mobilevit_xxs"),
    "timm edgenext": timm("edgenext_xx_small"),
    "timm convnext": timm(
        "convnext_tiny", depths=(2, 2, 3, 2), dims=(16, 24, 32, 48), drop_path_rate=0.2
    ),
    "timm convnextv2": timm("convnextv2_atto", depths=(2, 2, 3, 2), dims=(16, 24, 32, 48)),
    "timm resnet": timm("resnet10t"),
    "timm resnetv2": timm(
        "resnetv2_50", layers=(2, 2, 2, 2), channels=(32, 64, 96, 128), stem_chs=16
    ),
    "timm regnet": timm("regnetx_002"),
    "timm nf_regnet": timm("nf_regnet_b0"),
    "timm densenet": timm("densenet121", growth_rate=8, block_config=(2, 3, 4, 2)),
    "timm dla": timm("dla46_c"),
    "timm vovnet": timm("ese_vovnet19b_slim_dw"),
    "timm hrnet": timm("hrnet_w18_small"),
    "timm efficientnet": timm("efficientnet_b0", drop_path_rate=0.2),
    "timm mobilenetv3": timm("mobilenetv3_small_050"),
    "timm mobilenetv4": timm("mobilenetv4_conv_small_050"),
    "timm repvit": timm("repvit_m0_9"),
}
