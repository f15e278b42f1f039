"""Models of images and video, from transformers."""

from __future__ import annotations

from typing import Any

import torch

from bench.architectures.base import HEADS, LAYERS, ROWS, WIDTH, Batch, transformers
from bench.architectures.batches import IMAGE, images, pixels, video

VIT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "image_size": IMAGE,
    "patch_size": 8,
    "num_labels": 3,
    "hidden_dropout_prob": 0.1,
}
SWIN: dict[str, Any] = {
    "image_size": IMAGE,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2, 3],
    "num_heads": [2, 2, 4],
    "window_size": 4,
    "drop_path_rate": 0.2,
    "num_labels": 3,
}
STAGES: dict[str, Any] = {
    "depths": [2, 2, 3, 2],
    "hidden_sizes": [8, 16, 16, 32],
    "drop_path_rate": 0.2,
    "num_labels": 3,
}
RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [16, 16, 32, 32],
    "depths": [2, 2, 2, 2],
    "layer_type": "basic",
    "out_features": ["stage4"],
}


def maps() -> Batch:
    """Images with a class for each pixel."""
    return {
        "pixel_values": torch.randn(ROWS, 3, 64, 64),
        "labels": torch.randint(3, (ROWS, 64, 64)),
    }


DETR: dict[str, Any] = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_config": RESNET,
    "d_model": WIDTH,
    "num_queries": 8,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 2 * WIDTH,
    "decoder_ffn_dim": 2 * WIDTH,
    "num_labels": 3,
    "auxiliary_loss": True,
}

VISION = {
    "vit": transformers("ViTForImageClassification", pixels(), **VIT),
    "deit": transformers("DeiTForImageClassification", pixels(), **VIT),
    "beit": transformers(
        "BeitForImageClassification",
        pixels(),
        **VIT,
        drop_path_rate=0.2,
        use_relative_position_bias=True,
    ),
    "dinov2": transformers("Dinov2ForImageClassification", pixels(), **VIT, drop_path_rate=0.2),
    "vit_mae": transformers(
        "ViTMAEForPreTraining",
        images(),
        **VIT,
        decoder_hidden_size=WIDTH,
        decoder_num_hidden_layers=4,
        decoder_num_attention_heads=HEADS,
        decoder_intermediate_size=2 * WIDTH,
    ),
    "yolos": transformers(
        "YolosForObjectDetection",
        images(64),
        **{**VIT, "image_size": [64, 64]},
        num_detection_tokens=8,
        use_mid_position_embeddings=True,
    ),
    "swin": transformers("SwinForImageClassification", pixels(), **SWIN),
    "swinv2": transformers("Swinv2ForImageClassification", pixels(), **SWIN),
    "convnext": transformers("ConvNextForImageClassification", pixels(64), **STAGES),
    "convnextv2": transformers("ConvNextV2ForImageClassification", pixels(64), **STAGES),
    "poolformer": transformers(
        "PoolFormerForImageClassification", pixels(64), **STAGES, num_encoder_blocks=4
    ),
    "segformer": transformers(
        "SegformerForSemanticSegmentation",
        maps,
        **STAGES,
        num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=16,
        sr_ratios=[4, 2, 2, 1],
    ),
    "pvt": transformers(
        "PvtForImageClassification",
        pixels(64),
        **STAGES,
        image_size=64,
        num_attention_heads=[1, 2, 2, 4],
        sequence_reduction_ratios=[4, 2, 2, 1],
    ),
    "focalnet": transformers(
        "FocalNetForImageClassification",
        pixels(),
        **{**SWIN, "hidden_sizes": [16, 32, 64]},
        focal_levels=[2, 2, 2],
        focal_windows=[3, 3, 3],
    ),
    "mobilevit": transformers(
        "MobileViTForImageClassification",
        pixels(64),
        image_size=64,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
        num_labels=3,
    ),
    "hiera": transformers(
        "HieraForImageClassification",
        pixels(64),
        image_size=[64, 64],
        embed_dim=16,
        depths=[1, 2, 3],
        num_heads=[1, 2, 4],
        num_query_pool=2,
        query_stride=[2, 2],
        masked_unit_size=[4, 4],
        masked_unit_attention=[True, True, False],
        drop_path_rate=0.2,
        num_labels=3,
    ),
    "resnet": transformers("ResNetForImageClassification", pixels(64), **RESNET, num_labels=3),
    "regnet": transformers(
        "RegNetForImageClassification",
        pixels(64),
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 32],
        depths=[2, 2, 3, 2],
        groups_width=8,
        num_labels=3,
    ),
    "levit": transformers(
        "LevitForImageClassification",
        pixels(64),
        image_size=64,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 2, 4],
        depths=[2, 2, 2],
        key_dim=[8, 8, 8],
        num_labels=3,
    ),
    "detr": transformers("DetrForObjectDetection", images(64), **DETR, decoder_layerdrop=0.4),
    "conditional_detr": transformers("ConditionalDetrForObjectDetection", images(64), **DETR),
    "videomae": transformers(
        "VideoMAEForVideoClassification",
        lambda: {**video(), "labels": torch.tensor([0, 1])},
        **VIT,
        num_frames=4,
    ),
    "vivit": transformers(
        "VivitForVideoClassification",
        lambda: {**video(), "labels": torch.tensor([0, 1])},
        **VIT,
        num_frames=4,
        tubelet_size=[2, 8, 8],
    ),
    "timesformer": transformers(
        "TimesformerForVideoClassification",
        lambda: {**video(), "labels": torch.tensor([0, 1])},
        **VIT,
        num_frames=4,
    ),
}
