"""Encoders with decoders, of text, sound and time series, from transformers."""

from __future__ import annotations

from typing import Any

from bench.architectures.base import HEADS, LAYERS, VOCABULARY, WIDTH, transformers
from bench.architectures.batches import (
    FRAMES,
    MELS,
    filterbank,
    series,
    spectrum,
    translation,
)
from bench.architectures.decoders import TOKENS

BART: dict[str, Any] = {
    **TOKENS,
    "d_model": WIDTH,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 2 * WIDTH,
    "decoder_ffn_dim": 2 * WIDTH,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
DROPPED: dict[str, Any] = {**BART, "encoder_layerdrop": 0.4, "decoder_layerdrop": 0.4}
T5: dict[str, Any] = {
    **TOKENS,
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": 2 * WIDTH,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "decoder_start_token_id": 0,
}
SERIES: dict[str, Any] = {
    **{name: size for name, size in BART.items() if name not in TOKENS},
    "prediction_length": 8,
    "context_length": 16,
    "lags_sequence": [1, 2, 4],
    "num_time_features": 1,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}

PAIRS = {
    "t5": transformers("T5ForConditionalGeneration", translation, **T5),
    "longt5": transformers("LongT5ForConditionalGeneration", translation, **T5, local_radius=5),
    "switch_transformers": transformers(
        "SwitchTransformersForConditionalGeneration", translation, **T5, num_experts=4
    ),
    "bart": transformers("BartForConditionalGeneration", translation, **DROPPED),
    "marian": transformers("MarianMTModel", translation, **BART),
    "mbart": transformers("MBartForConditionalGeneration", translation, **DROPPED),
    "pegasus": transformers("PegasusForConditionalGeneration", translation, **BART),
    "blenderbot": transformers("BlenderbotForConditionalGeneration", translation, **BART),
    "m2m_100": transformers("M2M100ForConditionalGeneration", translation, **DROPPED),
    "nllb_moe": transformers(
        "NllbMoeForConditionalGeneration",
        translation,
        **DROPPED,
        num_experts=4,
        encoder_sparse_step=2,
        decoder_sparse_step=2,
    ),
    "led": transformers(
        "LEDForConditionalGeneration",
        translation,
        **BART,
        max_encoder_position_embeddings=64,
        max_decoder_position_embeddings=64,
        attention_window=8,
    ),
    "prophetnet": transformers(
        "ProphetNetForConditionalGeneration",
        translation,
        **TOKENS,
        hidden_size=WIDTH,
        encoder_ffn_dim=2 * WIDTH,
        decoder_ffn_dim=2 * WIDTH,
        num_encoder_layers=LAYERS,
        num_decoder_layers=LAYERS,
        num_encoder_attention_heads=HEADS,
        num_decoder_attention_heads=HEADS,
        max_position_embeddings=64,
        ngram=2,
    ),
    "whisper": transformers(
        "WhisperForConditionalGeneration",
        spectrum,
        **BART,
        num_mel_bins=MELS,
        max_source_positions=FRAMES // 2,
        max_target_positions=64,
        encoder_layerdrop=0.4,
        decoder_layerdrop=0.4,
    ),
    "speech_to_text": transformers(
        "Speech2TextForConditionalGeneration",
        filterbank,
        **DROPPED,
        input_feat_per_channel=MELS,
        conv_channels=WIDTH,
        max_source_positions=64,
        max_target_positions=64,
    ),
    "informer": transformers("InformerForPrediction", series, **SERIES),
    "autoformer": transformers("AutoformerForPrediction", series, **SERIES),
    "time_series_transformer": transformers("TimeSeriesTransformerForPrediction", series, **SERIES),
    "bert to bert": transformers(
        "EncoderDecoderModel",
        translation,
        decoder_start_token_id=1,
        pad_token_id=0,
        encoder={
            "model_type": "bert",
            "vocab_size": VOCABULARY,
            "hidden_size": WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "intermediate_size": 2 * WIDTH,
        },
        decoder={
            "model_type": "gpt2",
            "vocab_size": VOCABULARY,
            "n_embd": WIDTH,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "add_cross_attention": True,
        },
    ),
}
