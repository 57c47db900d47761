"""Tiny random models of transformers' families of language models, and how the trainer's numbers differ from theirs.

Needs torch and transformers alone.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.shared_prompt import Layout, Sample
from rl_empathy.errors import ModelError

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
    "Gemma4 text": (
        "gemma4_text",
        {
            **SHORT,
            **LAYERS,
            "vocab_size_per_layer_input": 96,
            "hidden_size_per_layer_input": 16,
            "final_logit_softcapping": 5.0,
        },
    ),
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
    "Granite, wide": (
        "granite",
        {
            "logits_scaling": 4.0,
            "tie_word_embeddings": False,
            "vocab_size": 512,
            "max_position_embeddings": 512,
        },
    ),
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
    "Falcon, ALiBi": (
        "falcon",
        {"alibi": True, "num_kv_heads": 2, "multi_query": False, "new_decoder_architecture": False},
    ),
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
    "BART decoder": (
        "bart",
        {"pad_token_id": 0, "encoder_layers": 1, "decoder_ffn_dim": 64, "encoder_ffn_dim": 64},
    ),
}
"""By name: transformers' model type, and the keys that make it small or special."""


NOT_TRAINED = {
    "Doge": "mixture of experts",
    "Mixtral": "mixture of experts",
    "BERT": "sees the tokens that it is to predict",
    "BART decoder": "have no part in its log-probs",
}
"""Families that are refused, and words of the reason."""
NOT_CHECKPOINTED = {"GPT-NeoX Japanese", "GPT", "CTRL"}
"""Families without gradient checkpointing in transformers."""
SAMPLES = (
    Sample(
        [11, 29, 3, 62, 71, 38, 54, 5, 17, 80, 44, 23], [[9, 31, 66, 2, 90, 47, 12, 58, 20, 33], [75, 8, 41]]
    ),
    Sample([50, 7, 26], [[61, 14, 88, 35, 70, 19, 4, 93, 56, 28, 13, 82, 40]]),
)
"""Two prompts, the first with two completions: three sequences that share a row where the layout allows it."""


class Difference(NamedTuple):
    """From transformers in float32, one sequence alone."""

    largest: float
    """Difference of log-probs, nats."""
    mean: float
    """Difference of log-probs, nats."""
    gradient: float
    """Norm of the difference over the norm of transformers' gradient."""


class Finding(NamedTuple):
    """What became of one family."""

    layout: str | None
    float32: Difference | None
    checkpointed: Difference | None
    """With gradient checkpointing."""
    bfloat16: Difference | None
    frozen_bfloat16: Difference | None
    """Weights held in bfloat16, as the reference model's."""
    transformers_bfloat16: Difference | None
    """Transformers itself, loaded in bfloat16."""
    refused: str | None


def make_config(name: str) -> Any:
    """The configuration of a family's tiny model."""
    model_type, special = FAMILIES[name]
    kind = CONFIG_MAPPING[model_type]
    known, other_names = vars(kind()), kind.attribute_map
    sizes = {other_names.get(key, key): value for key, value in SIZES.items()}
    return kind(**{key: value for key, value in sizes.items() if key in known} | special)


def make_architecture(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny random model in which every piece shows: large weights, biases and norms that do something.

    Args:
        name: A key of `FAMILIES`.
        folder: Where to; made if need be.
        seed: Seed of the weights.

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


def find(name: str, folder: Path, *, layout: Layout = "shared_prompt", device: str = "cpu") -> Finding:
    """Make a family's tiny model and compare the trainer with transformers, loaded with eager attention.

    Args:
        name: A key of `FAMILIES`.
        folder: Where to make the model.
        layout: That the run file would ask for.
        device: Where both compute.

    Returns:
        The differences, or why the model is refused.
    """
    path = str(make_architecture(name, folder))
    try:
        PolicyModel(path, dtype="float32", layout=layout)
    except ModelError as error:
        return Finding(None, None, None, None, None, None, str(error))
    exact = _transformers(path, torch.float32, device)
    coarse = _difference(_transformers(path, torch.bfloat16, device), exact)

    def trained(dtype: str, **settings: bool) -> tuple[Layout, Difference]:
        model = PolicyModel(path, dtype=dtype, layout=layout, **settings).to(device)
        return model.layout, _difference(_with_gradient(model.language_model, model.logprobs(SAMPLES)), exact)

    found_layout, float32 = trained("float32")
    checkpointed = None if name in NOT_CHECKPOINTED else trained("float32", gradient_checkpointing=True)[1]
    frozen = trained("bfloat16", frozen=True)[1]
    return Finding(found_layout, float32, checkpointed, trained("bfloat16")[1], frozen, coarse, None)


def is_wrong(found: Finding) -> bool:
    """Whether a family is neither computed as transformers does, up to rounding, nor refused."""
    if found.transformers_bfloat16 is None:
        return False
    in_float32 = [d for d in (found.float32, found.checkpointed) if d is not None]
    in_bfloat16 = [d for d in (found.bfloat16, found.frozen_bfloat16) if d is not None]
    bound = [0.02 + 2 * error for error in found.transformers_bfloat16[1:]]
    return any(not max(d.largest, d.gradient) < 1e-4 for d in in_float32) or any(
        not (d.mean < bound[0] and d.gradient < bound[1]) for d in in_bfloat16
    )


def _difference(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> Difference:
    error = (found[0] - exact[0]).abs()
    relative = (found[1] - exact[1]).norm() / exact[1].norm()
    return Difference(error.max().item(), error.mean().item(), relative.item())


def _transformers(path: str, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Log-probs and the gradient of their weighted sum, without any code of the trainer."""
    model: Module = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager")
    model.to(device)
    parts = []
    for prompt, completions, *_ in SAMPLES:
        for completion in completions:
            ids = torch.tensor([[*prompt, *completion]], device=device)
            logits = model(ids).logits[0, len(prompt) - 1 : -1].float()
            parts.append(logits.log_softmax(-1)[range(len(completion)), completion])
    return _with_gradient(model, torch.cat(parts))


def _with_gradient(model: Any, logprobs: Tensor) -> tuple[Tensor, Tensor]:
    weights = torch.linspace(-1, 2, len(logprobs), device=logprobs.device)
    (weights * logprobs).sum().backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return logprobs.detach().cpu(), torch.cat([gradient.float().flatten().cpu() for gradient in gradients])
