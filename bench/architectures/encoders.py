"""Encoders of text, from transformers."""

from __future__ import annotations

from typing import Any

from bench.architectures.base import HEADS, LAYERS, WIDTH, transformers
from bench.architectures.batches import masked, text, tokens
from bench.architectures.decoders import SIZES, TOKENS

POSITIONED: dict[str, Any] = {**SIZES, "max_position_embeddings": 80}
GROUPS: dict[str, Any] = {**SIZES, "embedding_size": 16, "hidden_dropout_prob": 0.1}

ENCODERS = {
    "bert": transformers("BertForMaskedLM", masked(), **SIZES),
    "roberta": transformers("RobertaForMaskedLM", masked(), **POSITIONED),
    "electra": transformers("ElectraForMaskedLM", masked(), **SIZES, embedding_size=16),
    "distilbert": transformers(
        "DistilBertForMaskedLM",
        masked(),
        **TOKENS,
        dim=WIDTH,
        hidden_dim=2 * WIDTH,
        n_layers=LAYERS,
        n_heads=HEADS,
    ),
    "albert, one group": transformers("AlbertForMaskedLM", masked(), **GROUPS, num_hidden_groups=1),
    "albert, two groups": transformers(
        "AlbertForMaskedLM", masked(), **GROUPS, num_hidden_groups=2
    ),
    "deberta-v2": transformers(
        "DebertaV2ForMaskedLM",
        masked(),
        **SIZES,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        conv_kernel_size=3,
    ),
    "deberta": transformers(
        "DebertaForMaskedLM",
        masked(),
        **SIZES,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
    ),
    "modernbert": transformers(
        "ModernBertForMaskedLM",
        masked(),
        **SIZES,
        local_attention=8,
        mlp_dropout=0.1,
        cls_token_id=1,
        sep_token_id=2,
        reference_compile=False,
    ),
    "squeezebert": transformers(
        "SqueezeBertForMaskedLM",
        masked(),
        **SIZES,
        embedding_size=WIDTH,
        **{f"{name}_groups": 2 for name in ("q", "k", "v", "post_attention", "intermediate")},
        output_groups=2,
    ),
    "xlnet": transformers(
        "XLNetLMHeadModel",
        tokens,
        **TOKENS,
        d_model=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        d_inner=2 * WIDTH,
    ),
    "ibert": transformers("IBertForMaskedLM", masked(), **POSITIONED, quant_mode=True),
    "mpnet": transformers("MPNetForMaskedLM", masked(), **POSITIONED),
    "longformer": transformers(
        "LongformerForMaskedLM", masked(), **POSITIONED, attention_window=[8] * LAYERS
    ),
    "big_bird": transformers(
        "BigBirdForMaskedLM", masked(64), **POSITIONED, block_size=4, num_random_blocks=2
    ),
    "convbert": transformers("ConvBertForMaskedLM", masked(), **SIZES, embedding_size=16),
    "fnet": transformers("FNetForMaskedLM", tokens, **SIZES),
    "mobilebert": transformers(
        "MobileBertForMaskedLM",
        masked(),
        **SIZES,
        embedding_size=16,
        true_hidden_size=WIDTH,
        intra_bottleneck_size=WIDTH,
    ),
    "funnel": transformers(
        "FunnelForMaskedLM",
        masked(),
        **TOKENS,
        block_sizes=[2, 2, 2],
        d_model=WIDTH,
        n_head=HEADS,
        d_head=8,
        d_inner=2 * WIDTH,
    ),
    "rembert": transformers("RemBertForMaskedLM", masked(), **SIZES, input_embedding_size=16),
    "roformer": transformers("RoFormerForMaskedLM", masked(), **SIZES, embedding_size=WIDTH),
    "esm": transformers(
        "EsmForMaskedLM",
        masked(),
        **POSITIONED,
        mask_token_id=3,
        position_embedding_type="rotary",
    ),
    "xlm": transformers(
        "XLMWithLMHeadModel", text, **TOKENS, emb_dim=WIDTH, n_layers=LAYERS, n_heads=HEADS
    ),
}
