"""A transformers language model that answers one question: how likely are these completions?"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rl_empathy.algorithms.logprobs import logits_logprobs, token_logprobs
from rl_empathy.engines.language_models import architecture, load_language_model
from rl_empathy.engines.layout_choice import choose_way
from rl_empathy.engines.shared_prompt import Layout, PackedRow, Sample, pack, register
from rl_empathy.engines.trainable import Trainable, WholeModel
from rl_empathy.errors import ModelError


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
            layout: Wanted layout; a slower one is taken instead, and said so, where the model does not fit.
            gradient_checkpointing: Recompute activations in the backward pass.
            frozen: The weights are only read, and so held in `dtype` as well.

        Raises:
            ModelError: There is no such model, or no way to compute it gives the log-probs that transformers gives.
        """
        super().__init__()
        self.language_model: Any = load_language_model(model_path, dtype=dtype if frozen else "float32")
        self.trainable: Trainable = WholeModel(self.language_model)
        self.dtype = dtype
        self.layout: Layout = layout
        accepted = inspect.signature(self.language_model.forward).parameters
        self._keeps_logits = "logits_to_keep" in accepted
        if gradient_checkpointing:
            if not self.language_model.supports_gradient_checkpointing:
                raise ModelError(
                    f"{architecture(self.language_model)} has no gradient checkpointing in transformers; set "
                    "cluster.policy_trainer.gradient_checkpointing: false"
                )
            self.language_model.gradient_checkpointing_enable()
            self.language_model.train()  # transformers recomputes in training mode only; there is no dropout
        self.note = choose_way(self, layout, trained=not frozen)
        """Why the layout is another one than was asked for; None when it is not."""

    def forward(self, row: PackedRow, *, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies of the row's completion tokens.

        Args:
            row: Prompts and completions, packed by this model.
            temperature: As in sampling.

        Returns:
            [predicted] log-probs and [predicted] entropies, nats.
        """
        with torch.autocast(row.input_ids.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            if self.layout == "one_sequence":
                return logits_logprobs(self._own_logits(row), row.targets, temperature=temperature)
            shape = {"row": row} if self.layout == "shared_prompt" else {}
            body = self.language_model.base_model
            hidden = body(
                row.input_ids, position_ids=row.position_ids, use_cache=False, **shape
            ).last_hidden_state
        if self.dtype == "bfloat16":
            hidden = hidden.bfloat16()  # a norm at the end may have left autocast in float32
        head = self.language_model.get_output_embeddings().weight
        return token_logprobs(hidden[0, row.predictors], head, row.targets, temperature=temperature)

    def rows(self, samples: Sequence[Sample]) -> list[PackedRow]:
        """Samples in one row, or, in the layout "one_sequence", each completion in a row of its own."""
        device = self.language_model.device
        if self.layout != "one_sequence":
            return [pack(samples, layout=self.layout, device=device)]
        alone = [sample.part(i, i + 1) for sample in samples for i in range(len(sample.completions))]
        return [pack([sample], layout=self.layout, device=device) for sample in alone]

    def logprobs(self, samples: Sequence[Sample]) -> Tensor:
        """Log-probs of a few short samples at temperature 1, in as few rows as the layout allows: [predicted] nats."""
        return torch.cat([self(row, temperature=1.0)[0] for row in self.rows(samples)])

    def use(self, layout: Layout, attention: str) -> None:
        """Compute in another layout, with another attention implementation of transformers.

        Raises:
            ModelError: The model brings an attention of its own.
        """
        self.layout = layout
        register()
        self.language_model.set_attn_implementation(attention)
        if self.language_model.config._attn_implementation != attention:
            raise ModelError(f"{architecture(self.language_model)} brings an attention of its own")

    @contextmanager
    def computing_in(self, dtype: str) -> Iterator[None]:
        """Compute in another number format for a while."""
        held, self.dtype = self.dtype, dtype
        try:
            yield
        finally:
            self.dtype = held

    def _own_logits(self, row: PackedRow) -> Tensor:
        """[predicted, vocab] logits of the model's own forward pass; the row holds one sequence."""
        if self._keeps_logits:
            return self.language_model(row.input_ids, use_cache=False, logits_to_keep=row.predictors).logits[
                0
            ]
        return self.language_model(row.input_ids, use_cache=False).logits[0, row.predictors]
