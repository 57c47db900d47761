"""A transformers language model that answers one question: how likely are these completions?"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rl_empathy.algorithms.logprobs import token_logprobs
from rl_empathy.engines.shared_prompt import Layout, PackedRow, Sample, install, pack
from rl_empathy.errors import ModelError

LAYOUT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest mean difference of the log-probs between the two layouts that counts as rounding, nats; bfloat16 rounds a
logit of 20 to 1/8, and a layout that shows a token the wrong text is off by whole nats."""

log = logging.getLogger(__name__)


class PolicyModel(nn.Module):
    """Wraps a causal language model so that its forward pass takes a row and gives log-probs."""

    def __init__(
        self,
        model_path: str,
        *,
        dtype: str,
        layout: Layout,
        gradient_checkpointing: bool = False,
        frozen: bool = False,
    ) -> None:
        """Load the model.

        Args:
            model_path: Folder of a transformers model, safetensors only.
            dtype: "float32" or "bfloat16", in which it computes. Weights that are trained stay in float32: in
                bfloat16 an update smaller than 1/256 of a weight would be lost.
            layout: Wanted layout; `packed` is taken instead, and said so, where the model does not fit the other.
            gradient_checkpointing: Recompute activations in the backward pass.
            frozen: The weights are only read, and so held in `dtype` as well.

        Raises:
            ModelError: There is no such model, or it is of a kind that was never tested.
        """
        super().__init__()
        self.language_model: Any = load_language_model(model_path, dtype=dtype if frozen else "float32")
        self._in_bfloat16 = dtype == "bfloat16"
        self.layout: Layout = "packed"
        if gradient_checkpointing:
            self.language_model.gradient_checkpointing_enable()
            self.language_model.train()  # transformers recomputes in training mode only; there is no dropout
        if layout == "shared_prompt" and _has_window(self.language_model.config):
            log.warning("this model's attention has a window: using the packed layout, which is slower")
        elif layout == "shared_prompt":
            self._share_prompts_if_exact()

    def forward(self, row: PackedRow, *, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies of the row's completion tokens.

        Args:
            row: Prompts and completions.
            temperature: As in sampling.

        Returns:
            [predicted] log-probs and [predicted] entropies, nats.
        """
        shape = {"row": row} if self.layout == "shared_prompt" else {}
        body = self.language_model.base_model
        with torch.autocast(row.input_ids.device.type, torch.bfloat16, enabled=self._in_bfloat16):
            hidden = body(
                row.input_ids, position_ids=row.position_ids, use_cache=False, **shape
            ).last_hidden_state
        if self._in_bfloat16:
            hidden = hidden.bfloat16()  # a norm at the end may have left autocast in float32
        head = self.language_model.get_output_embeddings().weight
        return token_logprobs(hidden[0, row.predictors], head, row.targets, temperature=temperature)

    def pack(self, samples: Sequence[Sample]) -> PackedRow:
        return pack(samples, layout=self.layout, device=self.language_model.device)

    def _share_prompts_if_exact(self) -> None:
        vocabulary = self.language_model.config.vocab_size
        ids = torch.randint(vocabulary, (48,), generator=torch.Generator().manual_seed(0)).tolist()
        sample = Sample(ids[:24], [ids[24:32], ids[32:48]])
        # Trained weights are float32, and compared as such; frozen ones are held in the format they compute in.
        held = self.language_model.dtype
        in_bfloat16, self._in_bfloat16 = self._in_bfloat16, held == torch.bfloat16
        with torch.no_grad():
            packed, _ = self(self.pack([sample]), temperature=1.0)
            implementation = self.language_model.config._attn_implementation
            install(self.language_model)
            self.layout = "shared_prompt"
            try:
                shared, _ = self(self.pack([sample]), temperature=1.0)
                difference = (shared - packed).abs().mean().item()
            except (TypeError, RuntimeError) as error:
                difference, reason = float("inf"), f"{type(error).__name__}: {error}"
            else:
                reason = f"log-probs differ by {difference:.1e} nats"
        self._in_bfloat16 = in_bfloat16
        if not difference <= LAYOUT_TOLERANCE[held]:
            self.layout = "packed"
            self.language_model.set_attn_implementation(implementation)
            log.warning(
                "this model does not fit the shared_prompt layout (%s): using packed, which is slower", reason
            )


def _has_window(config: Any) -> bool:
    """Whether a layer sees the last tokens only; a short trial would not tell."""
    layers = getattr(config, "layer_types", None)
    return "sliding_attention" in layers if layers else bool(getattr(config, "sliding_window", None))


def load_language_model(model_path: str, *, dtype: str) -> Any:
    """Load a causal language model from a local folder, safetensors only, without dropout.

    Raises:
        ModelError: No such folder, no config.json in it, or a mixture of experts.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if not (Path(model_path) / "config.json").is_file():
        raise ModelError(f"no model at {model_path}: a folder with config.json and *.safetensors is wanted")
    try:
        config = AutoConfig.from_pretrained(model_path, trust_remote_code=False)
        if any("expert" in key and value for key, value in config.to_dict().items()):
            raise ModelError(f"{model_path} is a mixture of experts, which was never tested here")
        for key in ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
            if hasattr(config, key):
                setattr(config, key, 0.0)  # dropout would make π differ from itself
        return AutoModelForCausalLM.from_pretrained(
            model_path,
            config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"transformers cannot load the model {model_path}: {error}") from error


def save_language_model(
    model: Any, weights: Mapping[str, Tensor], folder: Path, *, tokenizer_from: str
) -> None:
    """Write a model in transformers' format with its tokenizer; whole or absent.

    Args:
        model: A transformers model.
        weights: Its weights by name, a tied one once; the model itself may hold shards of them.
        folder: Where to; replaced if it exists.
        tokenizer_from: Folder that holds the tokenizer.
    """
    from transformers import AutoTokenizer

    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    implementation = model.config._attn_implementation
    model.set_attn_implementation("sdpa")  # the saved configuration must not name ours
    try:
        model.save_pretrained(temporary, state_dict=dict(weights))
    finally:
        model.set_attn_implementation(implementation)
    AutoTokenizer.from_pretrained(tokenizer_from).save_pretrained(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
