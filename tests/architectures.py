"""Tiny random models of every family of causal language models that transformers holds and that may be trained."""

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

VOCABULARY = 96
SIZES: dict[str, Any] = {
    **dict.fromkeys(["vocab_size"], VOCABULARY),
    **dict.fromkeys(["hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "dim"], 64),
    **dict.fromkeys(["intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff"], 96),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"], 2),
    **dict.fromkeys(
        [
            "num_attention_heads",
            "n_head",
            "n_heads",
            "num_heads",
            "attention_heads",
            "decoder_attention_heads",
        ],
        2,
    ),
    **dict.fromkeys(["num_key_value_heads", "num_kv_heads"], 1),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"], 256),
    **dict.fromkeys(["head_dim", "global_head_dim", "attention_head_size"], 32),
    "initializer_range": 0.15,
    **dict.fromkeys(["bos_token_id", "eos_token_id", "pad_token_id"], None),
}
"""Small values for the keys under which families keep their sizes; heads are 32 wide, vLLM's smallest on a CPU."""

SHORT = {"sliding_window": 8}
LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {}),
    "Llama, untied, biases": (
        "llama",
        {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
    ),
    "Llama, dynamic rotary": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "Qwen2": ("qwen2", {}),
    "Qwen2, window": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, **SHORT}),
    "Qwen3": ("qwen3", {}),
    "Qwen3.5": ("qwen3_5_text", {"layer_types": ["linear_attention", "full_attention"]}),
    "Mistral": ("mistral", {"sliding_window": None}),
    "Mistral, window of 8": ("mistral", SHORT),
    "Mistral, window of 4096": ("mistral", {"sliding_window": 4096}),
    "Ministral": ("ministral", SHORT),
    "Ministral3": ("ministral3", {}),
    "Gemma": ("gemma", {}),
    "Gemma2": ("gemma2", {**SHORT, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}),
    "Gemma3 text": ("gemma3_text", SHORT | LAYERS),
    "Gemma4 text": ("gemma4_text", {}),
    "VaultGemma": ("vaultgemma", {**SHORT, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}),
    "RecurrentGemma": (
        "recurrent_gemma",
        {"block_types": ["recurrent", "attention"], "attention_window_size": 8},
    ),
    "Phi": ("phi", {}),
    "Phi3": ("phi3", {"sliding_window": None}),
    "Phi3, window": ("phi3", SHORT),
    "Phi3, long rotary": (
        "phi3",
        {
            "sliding_window": None,
            "original_max_position_embeddings": 16,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "partial_rotary_factor": 1.0,
                "short_factor": [1.0] * 16,
                "long_factor": [4.0] * 16,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "Granite": ("granite", {"logits_scaling": 4.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5}),
    "GraniteSWA": ("granite_swa", SHORT),
    "Cohere": ("cohere", {"logit_scale": 0.25}),
    "Cohere2": ("cohere2", {"logit_scale": 0.25, **SHORT, **LAYERS}),
    "StableLM": ("stablelm", {"use_qkv_bias": True}),
    "OLMo": ("olmo", {"clip_qkv": 0.5}),
    "OLMo2": ("olmo2", {}),
    "OLMo3": ("olmo3", SHORT | LAYERS),
    "OLMo hybrid": ("olmo_hybrid", {}),
    "GPT2": ("gpt2", {}),
    "GPTBigCode": ("gpt_bigcode", {}),
    "GPT-Neo": ("gpt_neo", {"attention_types": [[["global", "local"], 1]], "window_size": 8}),
    "GPT-NeoX": ("gpt_neox", {}),
    "GPT-NeoX Japanese": ("gpt_neox_japanese", {}),
    "GPT-J": ("gptj", {"rotary_dim": 16}),
    "OPT": ("opt", {}),
    "BLOOM": ("bloom", {}),
    "Falcon, rotary": ("falcon", {}),
    "Falcon, ALiBi": ("falcon", {"alibi": True, "multi_query": False, "new_decoder_architecture": False}),
    "MPT": ("mpt", {}),
    "StarCoder2": ("starcoder2", SHORT),
    "SmolLM3": ("smollm3", {}),
    "Nemotron": ("nemotron", {}),
    "GLM": ("glm", {}),
    "GLM4": ("glm4", {}),
    "Helium": ("helium", {}),
    "Exaone4": ("exaone4", SHORT | LAYERS),
    "BioGPT": ("biogpt", {}),
    "XGLM": ("xglm", {}),
    "CodeGen": ("codegen", {"n_head": 4, "n_embd": 128, "rotary_dim": 16}),
    "Mamba": ("mamba", {}),
    "Mamba2": ("mamba2", {"num_heads": 4, "head_dim": 32, "state_size": 16, "n_groups": 1, "chunk_size": 8}),
    "FalconMamba": ("falcon_mamba", {}),
    "Falcon-H1": (
        "falcon_h1",
        {
            "mamba_d_ssm": 64,
            "mamba_n_heads": 2,
            "mamba_d_head": 32,
            "mamba_d_state": 16,
            "mamba_chunk_size": 8,
        },
    ),
    "LFM2": ("lfm2", {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}),
    "Bamba": (
        "bamba",
        {
            "attn_layer_indices": [1],
            "mamba_n_heads": 4,
            "mamba_d_head": 32,
            "mamba_d_state": 16,
            "mamba_chunk_size": 8,
        },
    ),
    "Zamba2": (
        "zamba2",
        {
            "num_hidden_layers": 3,
            "layers_block_type": ["mamba", "hybrid", "mamba"],
            "num_mem_blocks": 1,
            "mamba_d_state": 16,
            "n_mamba_heads": 4,
            "mamba_headdim": 32,
            "chunk_size": 8,
            "hybrid_layer_ids": [1],
        },
    ),
    "RWKV": ("rwkv", {}),
    "nanochat": ("nanochat", {}),
    "Persimmon": ("persimmon", {}),
    "DiffLlama": ("diffllama", {"num_key_value_heads": 2, "num_attention_heads": 4, "head_dim": 16}),
    "Ernie4.5": ("ernie4_5", {}),
    "HunYuan": ("hunyuan_v1_dense", {}),
    "SeedOss": ("seed_oss", {}),
    "Arcee": ("arcee", {}),
    "Apertus": ("apertus", {}),
    "Jais2": ("jais2", {}),
    "MiniCPM3": (
        "minicpm3",
        {
            "num_key_value_heads": 2,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 16,
            "v_head_dim": 32,
        },
    ),
    "Youtu": (
        "youtu",
        {
            "num_key_value_heads": 2,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 16,
            "v_head_dim": 32,
            "qk_head_dim": 32,
        },
    ),
    "ModernBERT decoder": (
        "modernbert-decoder",
        {
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "local_attention": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "GPT": ("openai-gpt", {}),
    "CTRL": ("ctrl", {"dff": 96}),
    "CWM": ("cwm", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **SHORT, **LAYERS}),
    "Doge": ("doge", {}),
    "BitNet": ("bitnet", {}),
    "HyperCLOVAX": ("hyperclovax", {}),
    "BERT": ("bert", {"is_decoder": False, "pad_token_id": 0}),
    "RoBERTa decoder": ("roberta", {"is_decoder": True, "pad_token_id": 0}),
    "Mixtral": ("mixtral", {}),
    "BART": ("bart", {"pad_token_id": 0, "encoder_layers": 1, "decoder_ffn_dim": 64, "encoder_ffn_dim": 64}),
}
"""By name: transformers' model type, and the keys that make it small or special."""


def make_config(name: str) -> Any:
    """The configuration of a family's tiny model."""
    model_type, special = FAMILIES[name]
    kind = CONFIG_MAPPING[model_type]
    known = vars(kind())
    return kind(
        **{key: value for key, value in SIZES.items() if key in known or key in kind.attribute_map} | special
    )


def make_architecture(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny random model in which every piece shows: large weights, biases and norms that do something.

    Args:
        name: A key of `FAMILIES`.
        folder: Where to; made if need be.
        seed: Of the weights.

    Returns:
        The folder.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(make_config(name), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.15)
                else:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder
