"""Models of diffusers, where it is installed: U-Nets, transformers, autoencoders."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch

from bench.architectures.base import LAYERS, ROWS, WIDTH, Architecture, Batch, Built
from bench.architectures.noise import (
    CHANNELS,
    FRAMES,
    SIDE,
    TEXT,
    captioned,
    controlled,
    described,
    film,
    flux,
    image,
    labelled,
    ltx,
    moment,
    noisy,
    placed,
    pooled,
    prompt,
    qwen,
    resized,
    sound,
)


def diffusers(name: str, batch: Callable[[], Batch], **options: Any) -> Architecture:
    """A model of diffusers, made with ``options``."""

    def build() -> Built:
        kind = getattr(importlib.import_module("diffusers"), name)
        return kind(**options).train(), batch()

    return Architecture("diffusers", build)


STAGES: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "layers_per_block": 2,
    "norm_num_groups": 4,
}
CROSSING: dict[str, Any] = {
    **STAGES,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
}
TALKING: dict[str, Any] = {
    **CROSSING,
    "sample_size": SIDE,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
HEADED: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": LAYERS}
SQUARE: dict[str, Any] = {**HEADED, "in_channels": CHANNELS, "sample_size": SIDE}
TWOFOLD: dict[str, Any] = {
    **HEADED,
    "in_channels": CHANNELS,
    "num_layers": 3,
    "joint_attention_dim": WIDTH,
}
THREE_AXES = (4, 6, 6)
CODING: dict[str, Any] = {
    **STAGES,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}

DIFFUSERS = {
    "diffusers UNet2DModel": diffusers(
        "UNet2DModel",
        functools.partial(noisy, "sample"),
        **STAGES,
        in_channels=CHANNELS,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ),
    "diffusers UNet2DConditionModel": diffusers(
        "UNet2DConditionModel", functools.partial(described, "sample"), **TALKING
    ),
    "diffusers UNet3DConditionModel": diffusers(
        "UNet3DConditionModel",
        functools.partial(described, "sample", FRAMES),
        **{**CROSSING, "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D")},
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    ),
    "diffusers ControlNet": diffusers("ControlNetModel", controlled, **CROSSING),
    "diffusers DiT": diffusers("DiTTransformer2DModel", labelled, **SQUARE, num_embeds_ada_norm=10),
    "diffusers PixArt": diffusers(
        "PixArtTransformer2DModel",
        resized,
        **SQUARE,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
    ),
    "diffusers SD3": diffusers(
        "SD3Transformer2DModel",
        pooled,
        **{**SQUARE, **TWOFOLD, "num_layers": LAYERS},
        caption_projection_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        dual_attention_layers=(0, 1, 2),
        qk_norm="rms_norm",
    ),
    "diffusers Flux": diffusers(
        "FluxTransformer2DModel",
        flux,
        **TWOFOLD,
        num_single_layers=3,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=THREE_AXES,
    ),
    "diffusers Chroma": diffusers(
        "ChromaTransformer2DModel",
        placed,
        **TWOFOLD,
        num_single_layers=3,
        axes_dims_rope=THREE_AXES,
        approximator_num_channels=8,
        approximator_hidden_dim=WIDTH,
        approximator_layers=2,
    ),
    "diffusers AuraFlow": diffusers(
        "AuraFlowTransformer2DModel",
        described,
        sample_size=SIDE,
        in_channels=CHANNELS,
        num_mmdit_layers=3,
        num_single_dit_layers=3,
        num_attention_heads=2,
        attention_head_dim=16,
        joint_attention_dim=WIDTH,
        caption_projection_dim=WIDTH,
        pos_embed_max_size=64,
    ),
    "diffusers QwenImage": diffusers(
        "QwenImageTransformer2DModel",
        qwen,
        **{**TWOFOLD, "num_layers": LAYERS},
        out_channels=1,
        axes_dims_rope=THREE_AXES,
    ),
    "diffusers Lumina2": diffusers(
        "Lumina2Transformer2DModel",
        captioned,
        in_channels=CHANNELS,
        sample_size=SIDE,
        hidden_size=WIDTH,
        num_layers=LAYERS,
        num_attention_heads=2,
        num_kv_heads=1,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(32, 32, 32),
        cap_feat_dim=WIDTH,
    ),
    "diffusers Sana": diffusers(
        "SanaTransformer2DModel",
        described,
        **SQUARE,
        out_channels=CHANNELS,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
    ),
    "diffusers CogVideoX": diffusers(
        "CogVideoXTransformer3DModel",
        lambda: {
            "hidden_states": torch.randn(ROWS, FRAMES, CHANNELS, SIDE // 2, SIDE // 2),
            "encoder_hidden_states": prompt(),
            "timestep": moment(),
        },
        **HEADED,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        time_embed_dim=16,
        text_embed_dim=WIDTH,
        sample_width=SIDE // 2,
        sample_height=SIDE // 2,
        sample_frames=4 * FRAMES - 3,
        max_text_seq_length=TEXT,
    ),
    "diffusers LTXVideo": diffusers(
        "LTXVideoTransformer3DModel",
        ltx,
        **HEADED,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
    ),
    "diffusers Wan": diffusers(
        "WanTransformer3DModel",
        functools.partial(described, frames=FRAMES),
        **HEADED,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=2 * WIDTH,
        rope_max_seq_len=32,
    ),
    "diffusers AutoencoderKL": diffusers("AutoencoderKL", image, **CODING, sample_size=2 * SIDE),
    "diffusers AutoencoderTiny": diffusers(
        "AutoencoderTiny",
        image,
        encoder_block_out_channels=(16, 16),
        decoder_block_out_channels=(16, 16),
        num_encoder_blocks=(1, 3),
        num_decoder_blocks=(3, 1),
    ),
    "diffusers AutoencoderDC": diffusers(
        "AutoencoderDC",
        image,
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(16, 32),
        decoder_block_out_channels=(16, 32),
        encoder_layers_per_block=(2, 2),
        decoder_layers_per_block=(2, 2),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
    ),
    "diffusers AutoencoderKLWan": diffusers(
        "AutoencoderKLWan",
        film,
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=2,
        temperal_downsample=[True],
    ),
    "diffusers AutoencoderOobleck": diffusers(
        "AutoencoderOobleck",
        sound,
        encoder_hidden_size=8,
        downsampling_ratios=[2, 4],
        channel_multiples=[1, 2],
        decoder_channels=8,
        decoder_input_channels=4,
        audio_channels=1,
    ),
    "diffusers VQModel": diffusers(
        "VQModel", image, **CODING, num_vq_embeddings=16, latent_channels=4
    ),
}
