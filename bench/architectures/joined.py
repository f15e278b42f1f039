"""Models of text with images, from transformers."""

from __future__ import annotations

from typing import Any

import torch

from bench.architectures.base import (
    HEADS,
    LAYERS,
    ROWS,
    VOCABULARY,
    WIDTH,
    Batch,
    integers,
    transformers,
)
from bench.architectures.batches import IMAGE, pairs
from bench.architectures.decoders import GROUPED, SIZES

PATCHES = 16
IMAGE_TOKEN = VOCABULARY - 1
EYE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "image_size": IMAGE,
    "patch_size": 8,
    "projection_dim": 16,
}
CAPTION: dict[str, Any] = {**SIZES, "projection_dim": 16, "encoder_hidden_size": WIDTH}
LANGUAGE: dict[str, Any] = {**GROUPED, "model_type": "llama"}
ROPE: dict[str, Any] = {"type": "default", "rope_type": "default", "mrope_section": [1, 1, 2]}


def picture(count: int = PATCHES) -> dict[str, Any]:
    """Text with an image in it, which is ``count`` tokens long."""
    ids = integers(ROWS, count + 12, high=VOCABULARY - 4)
    ids[:, 2 : 2 + count] = IMAGE_TOKEN
    return {
        "input_ids": ids,
        "pixel_values": torch.randn(ROWS, 3, IMAGE, IMAGE),
        "labels": ids.clone(),
    }


def patches() -> Batch:
    """The same, with the image cut to patches, of which four are one token."""
    ids = integers(ROWS, 20, high=VOCABULARY - 4)
    ids[:, 2] = VOCABULARY - 3
    ids[:, 3:7] = IMAGE_TOKEN
    grid = torch.tensor([[1, 4, 4]] * ROWS)
    return {
        "input_ids": ids,
        "pixel_values": torch.randn(ROWS * PATCHES, 3 * 2 * 8 * 8),
        "image_grid_thw": grid,
        "mm_token_type_ids": (ids == IMAGE_TOKEN).int(),
        "labels": ids.clone(),
    }


def question() -> dict[str, Any]:
    """An image and words about it."""
    return {
        "input_ids": integers(ROWS, 12),
        "pixel_values": torch.randn(ROWS, 3, IMAGE, IMAGE),
    }


QWEN: dict[str, Any] = {
    "text_config": {
        **GROUPED,
        "rope_parameters": ROPE,
        "rope_scaling": ROPE,
        "sliding_window": None,
    },
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": VOCABULARY - 2,
    "vision_start_token_id": VOCABULARY - 3,
    "vision_end_token_id": VOCABULARY - 4,
}
GRID: dict[str, Any] = {
    "depth": LAYERS,
    "num_heads": HEADS,
    "patch_size": 8,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
}

JOINED = {
    "clip": transformers("CLIPModel", pairs, text_config=CAPTION, vision_config=EYE),
    "chinese_clip": transformers("ChineseCLIPModel", pairs, text_config=CAPTION, vision_config=EYE),
    "siglip": transformers("SiglipModel", pairs, text_config=CAPTION, vision_config=EYE),
    "blip": transformers("BlipModel", pairs, text_config=CAPTION, vision_config=EYE),
    "blip, captions": transformers(
        "BlipForConditionalGeneration",
        lambda: {**question(), "labels": integers(ROWS, 12)},
        text_config=CAPTION,
        vision_config=EYE,
    ),
    "llava": transformers(
        "LlavaForConditionalGeneration",
        picture,
        text_config=LANGUAGE,
        vision_config={**EYE, "model_type": "clip_vision_model"},
        image_token_index=IMAGE_TOKEN,
        image_token_id=IMAGE_TOKEN,
        image_seq_length=PATCHES,
    ),
    "paligemma": transformers(
        "PaliGemmaForConditionalGeneration",
        lambda: {**picture(), "token_type_ids": torch.ones(ROWS, PATCHES + 12, dtype=torch.long)},
        text_config={**GROUPED, "model_type": "gemma", "head_dim": 8},
        vision_config={**EYE, "model_type": "siglip_vision_model"},
        image_token_index=IMAGE_TOKEN,
        image_token_id=IMAGE_TOKEN,
        projection_dim=WIDTH,
        vocab_size=VOCABULARY,
    ),
    "qwen2_vl": transformers(
        "Qwen2VLForConditionalGeneration",
        patches,
        **QWEN,
        vision_config={**GRID, "embed_dim": WIDTH, "hidden_size": WIDTH},
    ),
    "qwen2_5_vl": transformers(
        "Qwen2_5_VLForConditionalGeneration",
        patches,
        **QWEN,
        vision_config={
            **GRID,
            "hidden_size": WIDTH,
            "out_hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "window_size": 32,
            "fullatt_block_indexes": [1, 3],
        },
    ),
    "qwen3_vl": transformers(
        "Qwen3VLForConditionalGeneration",
        patches,
        **{**QWEN, "text_config": {**GROUPED, "rope_parameters": ROPE, "head_dim": 8}},
        vision_config={
            **GRID,
            "hidden_size": WIDTH,
            "out_hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_position_embeddings": PATCHES,
            "deepstack_visual_indexes": [1, 3, 4],
        },
    ),
    "git": transformers("GitForCausalLM", question, **SIZES, vision_config=EYE),
    "vilt": transformers(
        "ViltModel",
        question,
        **{**SIZES, "image_size": IMAGE, "patch_size": 8, "max_image_length": 16},
    ),
}
