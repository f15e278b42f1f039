"""Models of sound, from transformers."""

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
from bench.architectures.batches import FRAMES, MELS, features, wave

WAVES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [8, 3, 3],
    "conv_stride": [4, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "layerdrop": 0.4,
    "mask_time_length": 2,
    "ctc_zero_infinity": True,
}


def song() -> Batch:
    """Text, and codes of sound to continue."""
    codes = integers(ROWS * 4, 12, low=0, high=32)
    return {"input_ids": integers(ROWS, 12), "decoder_input_ids": codes}


SOUND = {
    "wav2vec2": transformers("Wav2Vec2ForCTC", wave, **WAVES),
    "wav2vec2_conformer": transformers(
        "Wav2Vec2ConformerForCTC",
        wave,
        **WAVES,
        conv_depthwise_kernel_size=7,
        max_source_positions=128,
        position_embeddings_type="relative",
    ),
    "wav2vec2_bert": transformers(
        "Wav2Vec2BertForCTC",
        lambda: {**features(), "labels": integers(ROWS, 4, high=32)},
        **WAVES,
        feature_projection_input_dim=MELS,
        conv_depthwise_kernel_size=7,
        left_max_position_embeddings=8,
        right_max_position_embeddings=8,
    ),
    "hubert": transformers("HubertForCTC", wave, **WAVES),
    "wavlm": transformers("WavLMForCTC", wave, **WAVES, num_buckets=16),
    "unispeech": transformers("UniSpeechForCTC", wave, **{**WAVES, "num_ctc_classes": 32}),
    "sew": transformers("SEWForCTC", wave, **WAVES, squeeze_factor=2),
    "data2vec_audio": transformers(
        "Data2VecAudioForCTC", wave, **{**WAVES, "num_conv_pos_embeddings": 3}
    ),
    "audio_spectrogram_transformer": transformers(
        "ASTForAudioClassification",
        lambda: {"input_values": torch.randn(ROWS, FRAMES, MELS), "labels": torch.tensor([0, 1])},
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        patch_size=8,
        frequency_stride=4,
        time_stride=4,
        max_length=FRAMES,
        num_mel_bins=MELS,
        num_labels=3,
    ),
    "musicgen": transformers(
        "MusicgenForConditionalGeneration",
        song,
        text_encoder={
            "model_type": "t5",
            "vocab_size": VOCABULARY,
            "d_model": WIDTH,
            "d_kv": 8,
            "d_ff": 2 * WIDTH,
            "num_layers": 4,
            "num_heads": HEADS,
        },
        audio_encoder={
            "model_type": "encodec",
            "hidden_size": 16,
            "num_filters": 4,
            "codebook_size": 32,
            "codebook_dim": 16,
            "upsampling_ratios": [4, 2],
            "target_bandwidths": [1.5],
        },
        decoder={
            "vocab_size": 32,
            "hidden_size": WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "ffn_dim": 2 * WIDTH,
            "num_codebooks": 4,
            "layerdrop": 0.4,
            "pad_token_id": 31,
            "bos_token_id": 31,
        },
    ),
}
