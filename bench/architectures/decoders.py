"""Decoders of text, from transformers."""

from __future__ import annotations

from typing import Any

from bench.architectures.base import HEADS, LAYERS, POSITIONS, VOCABULARY, WIDTH, transformers
from bench.architectures.batches import masked, tokens

TOKENS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SIZES: dict[str, Any] = {
    **TOKENS,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 64,
}
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "attention_dropout": 0.1}
EXPERTS: dict[str, Any] = {
    **GROUPED,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": WIDTH,
    "output_router_logits": True,
}
OLD: dict[str, Any] = {
    **TOKENS,
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": 64,
    "rotary_dim": 8,
}
STATE: dict[str, Any] = {
    **TOKENS,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "state_size": 8,
}
HALVES = ["sliding_attention", "full_attention"] * (LAYERS // 2)

DECODERS = {
    "gpt2": transformers("GPT2LMHeadModel", masked(), **OLD),
    "gpt_neo": transformers(
        "GPTNeoForCausalLM",
        tokens,
        **TOKENS,
        hidden_size=WIDTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        window_size=8,
        max_position_embeddings=64,
        attention_types=[[["global", "local"], LAYERS // 2]],
    ),
    "gptj": transformers("GPTJForCausalLM", tokens, **OLD),
    "codegen": transformers("CodeGenForCausalLM", tokens, **OLD),
    "gpt_bigcode": transformers("GPTBigCodeForCausalLM", tokens, **OLD),
    "gpt_neox": transformers("GPTNeoXForCausalLM", tokens, **SIZES, hidden_dropout=0.1),
    "opt": transformers(
        "OPTForCausalLM",
        masked(),
        **SIZES,
        ffn_dim=2 * WIDTH,
        word_embed_proj_dim=WIDTH,
        layerdrop=0.4,
    ),
    "xglm": transformers(
        "XGLMForCausalLM",
        tokens,
        **TOKENS,
        d_model=WIDTH,
        ffn_dim=2 * WIDTH,
        num_layers=LAYERS,
        attention_heads=HEADS,
        layerdrop=0.4,
    ),
    "bloom": transformers(
        "BloomForCausalLM",
        tokens,
        **TOKENS,
        hidden_size=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        hidden_dropout=0.1,
    ),
    "falcon": transformers("FalconForCausalLM", tokens, **SIZES, hidden_dropout=0.1),
    "mpt": transformers(
        "MptForCausalLM",
        tokens,
        **TOKENS,
        d_model=WIDTH,
        n_heads=HEADS,
        n_layers=LAYERS,
        max_seq_len=64,
        resid_pdrop=0.1,
    ),
    "llama": transformers("LlamaForCausalLM", masked(), **GROUPED),
    "mistral": transformers("MistralForCausalLM", tokens, **GROUPED, sliding_window=8),
    "mixtral": transformers(
        "MixtralForCausalLM", tokens, **GROUPED, num_local_experts=4, output_router_logits=True
    ),
    "qwen2": transformers("Qwen2ForCausalLM", tokens, **GROUPED),
    "qwen2_moe": transformers(
        "Qwen2MoeForCausalLM", tokens, **EXPERTS, shared_expert_intermediate_size=WIDTH
    ),
    "qwen3": transformers("Qwen3ForCausalLM", tokens, **GROUPED, head_dim=8),
    "qwen3_moe": transformers("Qwen3MoeForCausalLM", tokens, **EXPERTS, head_dim=8),
    "qwen3_next": transformers(
        "Qwen3NextForCausalLM",
        tokens,
        **EXPERTS,
        head_dim=8,
        shared_expert_intermediate_size=WIDTH,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "gemma": transformers("GemmaForCausalLM", tokens, **GROUPED, head_dim=8),
    "gemma2": transformers("Gemma2ForCausalLM", tokens, **GROUPED, head_dim=8, sliding_window=8),
    "gemma3": transformers(
        "Gemma3ForCausalLM", tokens, **GROUPED, head_dim=8, sliding_window=8, layer_types=HALVES
    ),
    "phi": transformers("PhiForCausalLM", tokens, **SIZES, resid_pdrop=0.1),
    "phi3": transformers("Phi3ForCausalLM", tokens, **GROUPED, resid_pdrop=0.1),
    "gpt_oss": transformers(
        "GptOssForCausalLM",
        tokens,
        **GROUPED,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
        layer_types=HALVES,
    ),
    "deepseek_v3": transformers(
        "DeepseekV3ForCausalLM",
        tokens,
        **SIZES,
        num_key_value_heads=HEADS,
        moe_intermediate_size=WIDTH,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=2,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
    "jamba": transformers(
        "JambaForCausalLM",
        tokens,
        **GROUPED,
        attn_layer_period=3,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=4,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "bamba": transformers(
        "BambaForCausalLM",
        tokens,
        **GROUPED,
        attn_layer_indices=[2],
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_chunk_size=8,
    ),
    "mamba": transformers("MambaForCausalLM", tokens, **STATE),
    "falcon_mamba": transformers("FalconMambaForCausalLM", tokens, **STATE),
    "mamba2": transformers(
        "Mamba2ForCausalLM", tokens, **STATE, num_heads=8, head_dim=8, n_groups=2, chunk_size=8
    ),
    "zamba2": transformers(
        "Zamba2ForCausalLM",
        tokens,
        **SIZES,
        num_key_value_heads=HEADS,
        layers_block_type=["linear_attention", "hybrid"] * (LAYERS // 2),
        n_mamba_heads=8,
        mamba_headdim=8,
        mamba_d_state=8,
        chunk_size=8,
        adapter_rank=8,
    ),
    "falcon_h1": transformers(
        "FalconH1ForCausalLM",
        tokens,
        **GROUPED,
        mamba_d_ssm=2 * WIDTH,
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_chunk_size=8,
    ),
    "nemotron_h": transformers(
        "NemotronHForCausalLM",
        tokens,
        **{**EXPERTS, "num_experts": None},
        layers_block_type=["linear_attention", "moe", "full_attention"] * (LAYERS // 3),
        head_dim=8,
        mamba_num_heads=8,
        mamba_head_dim=8,
        ssm_state_size=8,
        chunk_size=8,
        n_groups=2,
        n_routed_experts=4,
        moe_shared_expert_intermediate_size=WIDTH,
    ),
    "minimax": transformers(
        "MiniMaxForCausalLM",
        tokens,
        **GROUPED,
        layer_types=["full_attention", "linear_attention"] * (LAYERS // 2),
        block_size=8,
        num_local_experts=4,
        output_router_logits=True,
    ),
    "llama4": transformers(
        "Llama4ForCausalLM",
        tokens,
        **GROUPED,
        head_dim=8,
        intermediate_size_mlp=2 * WIDTH,
        attention_chunk_size=8,
        num_local_experts=4,
        interleave_moe_layer_step=2,
    ),
    "lfm2": transformers(
        "Lfm2ForCausalLM", tokens, **GROUPED, layer_types=["conv", "full_attention"] * 3
    ),
    "olmo2": transformers("Olmo2ForCausalLM", tokens, **GROUPED),
    "olmoe": transformers("OlmoeForCausalLM", tokens, **EXPERTS),
    "cohere": transformers("CohereForCausalLM", tokens, **GROUPED),
    "starcoder2": transformers("Starcoder2ForCausalLM", tokens, **GROUPED, residual_dropout=0.1),
    "stablelm": transformers("StableLmForCausalLM", tokens, **GROUPED, hidden_dropout=0.1),
    "granite": transformers("GraniteForCausalLM", tokens, **GROUPED),
    "granitemoe": transformers(
        "GraniteMoeForCausalLM", tokens, **GROUPED, num_local_experts=4, num_experts_per_tok=2
    ),
    "glm4": transformers("Glm4ForCausalLM", tokens, **GROUPED, head_dim=8),
    "smollm3": transformers("SmolLM3ForCausalLM", tokens, **GROUPED),
    "nemotron": transformers("NemotronForCausalLM", tokens, **GROUPED),
    "recurrent_gemma": transformers(
        "RecurrentGemmaForCausalLM", tokens, **GROUPED, head_dim=8, lru_width=WIDTH
    ),
    "rwkv": transformers(
        "RwkvForCausalLM",
        tokens,
        **TOKENS,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        attention_hidden_size=WIDTH,
        context_length=POSITIONS,
    ),
}
