"""DeepSpeed around a policy model: micro-batches in, one optimizer step out. Knows no Ray."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rl_empathy.algorithms.schedules import warmup_constant, warmup_cosine, warmup_length
from rl_empathy.config.sections import OptimizerConfig
from rl_empathy.engines.language_models import probe_samples, save_language_model
from rl_empathy.engines.microbatches import micro_batches_of_rank
from rl_empathy.engines.objectives.objective import Objective, Outputs
from rl_empathy.engines.objectives.sft import Likelihood
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.ranks import from_every_rank, meet_alone
from rl_empathy.engines.shards import Shards, ZeroStage, start_deepspeed
from rl_empathy.engines.shared_prompt import Sample, said_of_tokens
from rl_empathy.observability.memory import FreedMemory

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's moments, by torch's names."""
IDLE = Likelihood([Sample([0], [[0]])])
"""What a rank computes, with weight 0, while another one has a micro-batch more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """What one optimizer step did."""

    loss: float
    """Sum of the micro-batches' losses."""
    grad_norm: float
    """Global norm before clipping."""
    learning_rate: float
    skipped: bool
    """Loss or gradient was not finite; the weights are what they were."""


class TrainingEngine:
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
        meet_alone()
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self._settings = optimizer
        self._num_steps = num_steps
        self._warmup_steps = warmup_length(optimizer.warmup_steps, num_steps=num_steps)
        self.microbatch_tokens = microbatch_tokens
        """Tokens a forward pass may hold; another number changes the rounding, and nothing else."""
        self.num_updates = 0
        self.skipped_in_a_row = 0
        self._freed_memory = FreedMemory()
        self._engine, self._optimizer = start_deepspeed(model, optimizer, zero_stage)
        self._shards = Shards(self._engine, self._optimizer, zero_stage, optimizer.max_grad_norm)
        self.model: PolicyModel = self._engine.module

    def update(self, objective: Objective) -> UpdateReport:
        """Make one optimizer step on all samples of an objective, of which each rank trains a share.

        Args:
            objective: What is trained, the same on every rank; cut into micro-batches by tokens.

        Returns:
            What happened, the same on every rank. A loss or gradient that is not finite leaves the weights alone.
        """
        learning_rate = self._settings.learning_rate * self._learning_rate_factor()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        total = sum(from_every_rank(self._backward(objective)))
        grad_norm = self._shards.step()
        self._freed_memory.give_back()
        skipped = not math.isfinite(grad_norm)
        self.num_updates += not skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        return UpdateReport(loss=total, grad_norm=grad_norm, learning_rate=learning_rate, skipped=skipped)

    def logprobs(self, samples: Sequence[Sample], *, temperature: float) -> Tensor:
        """[predicted] log-probs under the current weights, nats, without a gradient; each rank computes a share."""
        parts = []
        with torch.no_grad():
            for batch in self._micro_batches(samples)[0]:
                values = self._outputs(self.model, batch or IDLE.samples, temperature).logprobs
                parts.append(values if batch else values[:0])
        return torch.cat(from_every_rank(torch.cat(parts).cpu())).to(parts[0].device)

    def weights(self) -> dict[str, Tensor]:
        """Every tensor by its name in transformers, buffers too, a tied one once. All ranks call, rank 0 gets them."""
        weights = {}
        for name, tensor in self.model.trainable.published():
            whole = self._shards.whole(tensor)  # let go at once on the other ranks
            if self.rank == 0:
                weights[name] = whole
        return weights

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

    def optimizer_state(self, *, copy: bool = True) -> dict[str, Tensor]:
        """AdamW's moments by parameter name, and the number of updates. All ranks call it, rank 0 gets them.

        Args:
            copy: Whether they stay as they are when the next update is made; twice a weight's memory.
        """
        state = {"num_updates": torch.tensor(self.num_updates)}
        for name, parameter in self.model.trainable.parameters():
            for key in MOMENTS if self.num_updates else ():
                moment = self._shards.moment(parameter, key, copy=copy)
                if self.rank == 0:
                    state[f"{key}/{name}"] = moment
        return state

    def load(self, policy: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Put back what `weights` and `optimizer_state` gave, whatever the number of ranks was then."""
        self.num_updates = int(optimizer["num_updates"])
        if self.num_updates and self._shards.makes_moments:
            self._change_nothing()
        for name, tensor in self.model.trainable.published():
            if isinstance(tensor, nn.Parameter):
                self._shards.set_weight(tensor, policy[name])
            else:
                tensor.copy_(policy[name])
        for name, parameter in self.model.trainable.parameters():
            for key in MOMENTS if self.num_updates else ():
                self._shards.set_moment(parameter, key, optimizer[f"{key}/{name}"])
        self._shards.set_step(self.num_updates)

    def _backward(self, objective: Objective) -> float:
        """Gradients of this rank's share; the sum of its losses."""
        batches, start = self._micro_batches(objective.samples)
        total = 0.0
        for number, batch in enumerate(batches, start=1):
            self._engine.set_gradient_accumulation_boundary(number == len(batches))
            outputs = self._outputs(self._engine, batch or IDLE.samples, objective.temperature)
            end = start + len(outputs.logprobs)
            part = objective.loss(outputs, slice(start, end)) if batch else 0.0 * outputs.logprobs.sum()
            if not part.isfinite():
                # The gradient then is not finite either, so that one check serves for both.
                part = part * torch.nan
            self._engine.backward(part * self.ranks, scale_wrt_gas=False)  # DeepSpeed averages over the ranks
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

    def _change_nothing(self) -> None:
        """Make a step in which AdamW gets its moments, which a checkpoint then fills."""
        for group in self._optimizer.param_groups:
            group["lr"] = 0.0  # the weight decay is multiplied by it
        self._backward(Likelihood([]))
        self._shards.step()

    def _learning_rate_factor(self) -> float:
        step, warmup = self.num_updates + 1, self._warmup_steps
        if self._settings.schedule == "constant":
            return warmup_constant(step, warmup_steps=warmup)
        return warmup_cosine(step, warmup_steps=warmup, num_steps=self._num_steps)
