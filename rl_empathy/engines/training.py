"""Trains a policy model: samples in, one optimizer step out. Knows no Ray."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rl_empathy.config.sections import OptimizerConfig
from rl_empathy.engines.language_models import probe_samples, save_language_model
from rl_empathy.engines.microbatches import micro_batches_of_rank
from rl_empathy.engines.objectives.objective import Objective, Outputs
from rl_empathy.engines.objectives.sft import Likelihood
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.ranks import from_every_rank
from rl_empathy.engines.sharded_training import ShardedTraining, UpdateReport
from rl_empathy.engines.shards import ZeroStage
from rl_empathy.engines.shared_prompt import Sample, said_of_tokens

BETAS = (0.9, 0.95)
POLICY = "policy"
"""File of the weights in a checkpoint."""
IDLE = Likelihood([Sample([0], [[0]])])
"""What a rank computes, with weight 0, while another one has a micro-batch more."""


class TrainingEngine(ShardedTraining):
    """A policy model with its optimizer; one rank of those that hold it."""

    def __init__(
        self,
        model: PolicyModel,
        optimizer: OptimizerConfig,
        *,
        num_steps: int,
        microbatch_tokens: int,
        zero_stage: ZeroStage = 0,
    ) -> None:
        """Give the model to DeepSpeed. The ranks have met before (`ranks.meet`); who has not is the only one.

        Args:
            model: In float32 or bfloat16, on the CPU or a GPU.
            optimizer: AdamW and its schedule.
            num_steps: Optimizer steps in all, for the schedule.
            microbatch_tokens: Tokens a forward pass may hold.
            zero_stage: What the ranks shard: 0 nothing; 2 moments and gradients; 3 weights too.
        """
        super().__init__(
            model, model.trainable, optimizer, num_steps=num_steps, zero_stage=zero_stage, betas=BETAS
        )
        self.microbatch_tokens = microbatch_tokens
        """Tokens a forward pass may hold; another number changes the rounding, and nothing else."""
        self.model: PolicyModel = self._engine.module

    def update(self, objective: Objective) -> UpdateReport:
        """Make one optimizer step on all samples of an objective, of which each rank trains a share.

        Args:
            objective: What is trained, the same on every rank; cut into micro-batches by tokens.

        Returns:
            What happened, the same on every rank. A loss or gradient that is not finite leaves the weights alone.
        """
        return self._step(self._gradients(objective))

    def logprobs(self, samples: Sequence[Sample], *, temperature: float) -> Tensor:
        """[predicted] log-probs under the current weights, nats, without a gradient; each rank computes a share."""
        parts = []
        with torch.no_grad():
            for batch in self._micro_batches(samples)[0]:
                values = self._outputs(self.model, batch or IDLE.samples, temperature).logprobs
                parts.append(values if batch else values[:0])
        return torch.cat(from_every_rank(torch.cat(parts).cpu())).to(parts[0].device)

    def export(self, folder: Path, *, tokenizer_from: str) -> None:
        """Write the model with its tokenizer in transformers' format, and prove that it is the one held here.

        All ranks call it, rank 0 writes.

        Args:
            folder: Where to; replaced if it exists.
            tokenizer_from: Folder that holds the tokenizer.

        Raises:
            ModelError: The written model, loaded anew, gives other log-probs; then nothing is written.
        """
        with self.model.computing_in("float32"):
            logprobs = self.logprobs(probe_samples(self.model.language_model.config), temperature=1.0)
        weights = self.weights()
        if self.rank == 0:
            save_language_model(
                self.model.language_model, weights, folder, tokenizer_from=tokenizer_from, logprobs=logprobs
            )

    def _zero_gradients(self) -> None:
        self._gradients(Likelihood([]))

    def _gradients(self, objective: Objective) -> float:
        """Gradients of this rank's share; the sum of its losses."""
        batches, start = self._micro_batches(objective.samples)
        total = 0.0
        for number, batch in enumerate(batches, start=1):
            self._engine.set_gradient_accumulation_boundary(number == len(batches))
            outputs = self._outputs(self._engine, batch or IDLE.samples, objective.temperature)
            end = start + len(outputs.logprobs)
            part = objective.loss(outputs, slice(start, end)) if batch else 0.0 * outputs.logprobs.sum()
            self._backward(part)
            total, start = total + part.item(), end
        return total

    def _outputs(self, model: Callable[..., Any], batch: Sequence[Sample], temperature: float) -> Outputs:
        """A micro-batch through the model: in one row, where the layout puts several sequences into it."""
        rows = self.model.rows(batch)
        seen = [model(row, temperature=temperature) for row in rows]
        logprobs, entropies = (
            several[0] if len(rows) == 1 else torch.cat(several) for several in zip(*seen, strict=True)
        )
        mask, advantages, index = (values.to(logprobs.device) for values in said_of_tokens(batch))
        return Outputs(
            logprobs=logprobs,
            entropies=entropies,
            loss_mask=mask,
            advantages=advantages,
            completion_index=index,
        )

    def _micro_batches(self, samples: Sequence[Sample]) -> tuple[list[list[Sample]], int]:
        return micro_batches_of_rank(
            samples,
            rank=self.rank,
            ranks=self.ranks,
            max_tokens=self.microbatch_tokens,
            layout=self.model.layout,
        )
