"""What a role takes of memory, in parts: arithmetic on the shape of its model.

What is estimated is what the process holds at its worst moment, in the middle of the largest micro-batch. Constants
that no arithmetic gives were measured on a CPU (torch 2.13, vLLM 0.32, Ray 2.60).
"""

from collections.abc import Mapping
from typing import NamedTuple

from rl_empathy.config.model_size import ModelSize

MIB, GIB = 2**20, 2**30
TRAINER_RUNTIME = int(0.45 * GIB)
"""Memory of a process that holds torch, transformers and DeepSpeed."""
SCORER_RUNTIME = int(0.45 * GIB)
"""Memory of a process that holds torch and transformers."""
ENGINE_RUNTIME = int(0.8 * GIB)
"""Memory of a process that holds vLLM."""
LOGITS_CHUNK = 128 * MIB
"""Logits that are made at a time, see `algorithms.logprobs`; up to four arrays of that size exist at once."""
MAX_BATCHED_TOKENS = 4096
"""Prompts that vLLM reads in one step."""

Parts = Mapping[str, int]
"""Bytes by what they are for."""


class MicroBatch(NamedTuple):
    """The largest forward pass of a training process."""

    tokens: int
    spread: float = 0.0
    """Keys and values that attention copies for each token in the shared-prompt layout: every completion of a prompt
    gets the prompt's own, so it is completions x (prompt + completion) / (prompt + completions x completion).
    """
    in_bfloat16: bool = False
    recomputes: bool = False
    """With gradient checkpointing."""
    has_logits: bool = True
    """An encoder has none."""


def training_parts(model: ModelSize, batch: MicroBatch, *, zero_stage: int = 0, ranks: int = 1) -> Parts:
    """Parts of a process that trains: AdamW in float32, whatever the activations are in.

    Args:
        model: What is trained.
        batch: Its largest micro-batch.
        zero_stage: What is cut over the ranks; from 2 on ZeRO keeps a copy of the weights with the moments.
        ranks: Processes that train together.
    """
    count = model.parameters
    share = ranks if zero_stage == 3 else 1
    of_moments = 12 / ranks if zero_stage else 8
    parts = {
        "weights": (4 * count + (2 * count if batch.in_bfloat16 else 0))
        // share,  # autocast keeps what it has cast
        "gradients": 4 * count // share,
        "moments": int(of_moments * count),
    }
    if model.shape is not None:
        parts["activations"] = activation_bytes(model, batch)
        if batch.has_logits:
            parts["logits"] = logits_bytes(model, batch.tokens, with_gradient=True)
    return parts | {"process": TRAINER_RUNTIME}


def reading_parts(model: ModelSize, batch: MicroBatch) -> Parts:
    """Parts of a process that computes log-probs only: activations of one layer at a time."""
    weights = model.parameters * (2 if batch.in_bfloat16 else 4)
    if model.shape is None:
        return {"weights": weights, "process": SCORER_RUNTIME}
    return {
        "weights": weights,
        "activations": activation_bytes(model, batch) // model.shape.layers,
        "logits": logits_bytes(model, batch.tokens, with_gradient=False) if batch.has_logits else 0,
        "process": SCORER_RUNTIME,
    }


def engine_parts(model: ModelSize, *, in_bfloat16: bool, cache_bytes: int, on_cpu: bool) -> Parts:
    """Parts of a process that generates with vLLM, which on a CPU keeps a second copy of each matrix, packed.

    Args:
        model: What generates.
        in_bfloat16: Its number format.
        cache_bytes: Bytes of the key-value cache.
        on_cpu: Whether it runs on one.
    """
    size = 2 if in_bfloat16 else 4
    parts = {"weights": size * model.parameters, "cache": cache_bytes}
    shape = model.shape
    if on_cpu:
        not_packed = (
            shape.vocabulary * shape.hidden if shape and not shape.tied else 0
        )  # embeddings are looked up
        parts["packed weights"] = size * (model.parameters - not_packed)
    if shape:
        parts["activations"] = 4 * MAX_BATCHED_TOKENS * (2 * shape.hidden + 3 * shape.intermediate)
    return parts | {"process": ENGINE_RUNTIME}


def activation_bytes(model: ModelSize, batch: MicroBatch) -> int:
    """What the backward pass of a Llama needs of the forward pass.

    For each token and layer, both norms keep their input, what they have normalised and what they give (6 hidden
    widths, in float32); attention its query, keys and values (repeated for every query head), what it gives, and a
    contiguous copy (5 query widths); the feed-forward part four of its widths. What attention copies for a shared
    prompt comes on top.
    """
    shape = model.shape
    assert shape is not None
    width = 2 if batch.in_bfloat16 else 4
    norms = 4 * 6 * shape.hidden
    matrices = width * ((5 + 2 * batch.spread) * shape.query + 4 * shape.intermediate)
    layer = int(batch.tokens * (norms + matrices))
    if batch.recomputes:
        return layer + batch.tokens * 4 * shape.hidden * shape.layers
    return layer * shape.layers


def logits_bytes(model: ModelSize, tokens: int, *, with_gradient: bool) -> int:
    """Bytes of the chunks in which log-probs are computed, and the gradient of the head."""
    shape = model.shape
    assert shape is not None
    chunk = min(max(LOGITS_CHUNK, 4 * shape.vocabulary), 4 * tokens * shape.vocabulary)
    return 4 * chunk + (4 * shape.vocabulary * shape.hidden if with_gradient else 0)
