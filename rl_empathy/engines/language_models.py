"""Causal language models of transformers: loaded whole and without dropout, or refused by name; saved and read back."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rl_empathy.algorithms.logprobs import logits_logprobs
from rl_empathy.engines.shared_prompt import Sample
from rl_empathy.errors import ModelError
from rl_empathy.observability.disk import whole_folder

MAX_ROUNDING = 1e-3
"""Largest difference of a log-prob in float32 that counts as rounding, nats."""
MEAN_ROUNDING = 1e-4
"""Largest mean difference of log-probs in float32 that counts as rounding, nats."""

log = logging.getLogger(__name__)


def load_language_model(model_path: str, *, dtype: str) -> Any:
    """Load a causal language model from a local folder, safetensors only, without dropout.

    Args:
        model_path: The folder.
        dtype: Name of a torch dtype, in which the weights are held.

    Returns:
        A transformers model, in evaluation mode.

    Raises:
        ModelError: There is no such folder, the model is of a kind that is not trained here, or the files lack weights.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if not (Path(model_path) / "config.json").is_file():
        raise ModelError(f"no model at {model_path}: a folder with config.json and *.safetensors is wanted")
    try:
        config = AutoConfig.from_pretrained(model_path, trust_remote_code=False)
        _refuse_kinds(config, model_path)
        _turn_off_dropout(config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            model_path,
            config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            attn_implementation="eager",  # some models build their attention once, and sdpa may be another function
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"transformers cannot load the model {model_path}: {error}") from error
    model, loading = loaded
    _refuse_gaps(loading, model_path)
    _refuse_another_head(model, model_path)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def architecture(model: Any) -> str:
    """The name by which the model is announced or refused."""
    return type(model).__name__


def _refuse_kinds(config: Any, model_path: str) -> None:
    reason = None
    if config.is_encoder_decoder:
        reason = "is an encoder-decoder; only decoders are trained here"
    elif config.get_text_config() is not config:
        reason = "holds more than a language model; save its language model alone (its text configuration and weights)"
    elif any("expert" in key and value for key, value in keys_of(config.to_dict())):
        reason = "is a mixture of experts, which is not trained here"
    if reason:
        name = (config.architectures or [config.model_type])[0]
        raise ModelError(f"{name} in {model_path} {reason}")


def keys_of(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key of a configuration with its value, those of nested sections too."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from keys_of(value)
        else:
            yield str(key), value


def _turn_off_dropout(config: Any) -> None:
    """Set every share that is dropped in training to 0: with dropout a policy would differ from itself."""
    for key, value in vars(config).items():
        if hasattr(value, "to_dict"):
            _turn_off_dropout(value)
        elif "drop" in key and isinstance(value, float) and value:
            setattr(config, key, 0.0)


def _refuse_gaps(loading: Mapping[str, Any], model_path: str) -> None:
    for kind, what in (("missing_keys", "lack"), ("mismatched_keys", "hold other shapes of")):
        if names := sorted(map(str, loading.get(kind) or ())):
            raise ModelError(
                f"the files in {model_path} {what} {len(names)} of the model's tensors, among them {names[0]}; "
                "transformers would fill them with random numbers"
            )
    if names := sorted(loading.get("unexpected_keys") or ()):
        log.warning(
            "the files in %s hold %d tensors that transformers' model has no place for, among them %s: they are "
            "neither trained nor exported",
            model_path, len(names), names[0],
        )  # fmt: skip


def _refuse_another_head(model: Any, model_path: str) -> None:
    """Refuse a head in the files beside a configuration that ties it: transformers takes it, and vLLM does not."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if model.config.tie_word_embeddings and head is not None and head.weight is not embedding.weight:
        raise ModelError(
            f"{architecture(model)} in {model_path} has a head of its own in its files, and its config.json has "
            "tie_word_embeddings: true; set that to false, or take the head out of the files"
        )


def tensors_of(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a model's files hold, by its name, a tied one once: parameters first, then buffers."""
    yield from model.named_parameters()
    kept = model.state_dict(keep_vars=True)
    for name, buffer in model.named_buffers():
        if name in kept:
            yield name, buffer


def probe_samples(config: Any) -> list[Sample]:
    """A fixed short input of random ordinary tokens: a prompt with two completions, then another with one."""
    special = {
        value for key, value in vars(config).items() if key.endswith("token_id") and isinstance(value, int)
    }
    dice = torch.Generator().manual_seed(0)
    ids = iter(torch.randint(config.vocab_size, (1000,), generator=dice).tolist())

    def take(count: int) -> list[int]:
        return [next(token for token in ids if token not in special) for _ in range(count)]

    return [Sample(take(24), [take(8), take(16)]), Sample(take(10), [take(9)])]


def own_logprobs(model: Any, samples: Sequence[Sample]) -> Tensor:
    """Log-probs of the completions by the model's own forward pass, one sequence alone at a time: [predicted] nats."""
    parts = []
    for sample in samples:
        for completion in sample.completions:
            ids = torch.tensor([[*sample.prompt, *completion]], device=model.device)
            logits = model(ids, use_cache=False).logits[0, len(sample.prompt) - 1 : -1]
            parts.append(logits_logprobs(logits, ids[0, len(sample.prompt) :], temperature=1.0)[0])
    return torch.cat(parts)


def rounding_exceeded(values: Tensor, expected: Tensor) -> str | None:
    """What is wrong when two evaluations in float32 differ by more than rounding, else None."""
    difference = (values.float().cpu() - expected.float().cpu()).abs()
    if difference.max() <= MAX_ROUNDING and difference.mean() <= MEAN_ROUNDING:
        return None
    return f"log-probs differ by up to {difference.max():.1e} nats, {difference.mean():.1e} in the mean"


def save_language_model(
    model: Any, weights: Mapping[str, Tensor], folder: Path, *, tokenizer_from: str, logprobs: Tensor
) -> None:
    """Write a model in transformers' format with its tokenizer, and read it back; whole or absent.

    Args:
        model: A transformers model.
        weights: Its tensors by name, a tied one once; the model itself may hold shards of them.
        folder: Where to; replaced if it exists.
        tokenizer_from: Folder that holds the tokenizer.
        logprobs: [predicted] of `probe_samples` by the trainer in float32, nats; the saved model has to give the same.

    Raises:
        ModelError: The saved model gives other log-probs. Nothing is left in the folder's place but what was there.
    """
    from transformers import AutoTokenizer

    with whole_folder(folder) as written:
        model.save_pretrained(written, state_dict=dict(weights))
        compare_saved(written, logprobs, architecture(model))
        AutoTokenizer.from_pretrained(tokenizer_from).save_pretrained(written)


def compare_saved(folder: Path, logprobs: Tensor, name: str) -> None:
    """Load a saved model anew and compare its log-probs of `probe_samples` with those of the model that was saved.

    Raises:
        ModelError: They differ by more than rounding.
    """
    from transformers import AutoModelForCausalLM

    saved = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", use_safetensors=True
    )
    with torch.no_grad():
        fault = rounding_exceeded(own_logprobs(saved, probe_samples(saved.config)), logprobs)
    if fault:
        raise ModelError(
            f"{name}: the saved model is not the one that was to be saved, {fault}; it is deleted again"
        )
