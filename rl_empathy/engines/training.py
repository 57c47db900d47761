"""DeepSpeed around a policy model: micro-batches in, one optimizer step out. Knows no Ray."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rl_empathy.algorithms.schedules import warmup_constant, warmup_cosine
from rl_empathy.config.sections import OptimizerConfig
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.reference import completion_logprobs
from rl_empathy.engines.shared_prompt import Sample, split_by_tokens

TokenLoss = Callable[[Tensor, Tensor, slice], Tensor]
"""(log-probs [predicted], entropies [predicted], the micro-batch's place among all predicted tokens) -> [] loss."""


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
    """A policy model with its optimizer."""

    def __init__(
        self, model: PolicyModel, optimizer: OptimizerConfig, *, num_steps: int, microbatch_tokens: int
    ) -> None:
        """Give the model to DeepSpeed.

        Args:
            model: In float32 or bfloat16, on the CPU or a GPU.
            optimizer: AdamW and its schedule.
            num_steps: Optimizer steps in all, for the schedule.
            microbatch_tokens: Tokens a forward pass may hold.
        """
        self._settings = optimizer
        self._num_steps = num_steps
        self._microbatch_tokens = microbatch_tokens
        self.num_updates = 0
        self.skipped_in_a_row = 0
        self._engine, self._optimizer = _start_deepspeed(model, optimizer)
        self.model: PolicyModel = self._engine.module

    def update(self, samples: Sequence[Sample], loss: TokenLoss, *, temperature: float = 1.0) -> UpdateReport:
        """Make one optimizer step on all samples.

        Args:
            samples: What is trained, cut into micro-batches by tokens.
            loss: Loss of a micro-batch, normalised by a count over the whole step.
            temperature: As in sampling.

        Returns:
            What happened. A loss or gradient that is not finite leaves the weights alone.
        """
        batches = split_by_tokens(samples, max_tokens=self._microbatch_tokens, layout=self.model.layout)
        learning_rate = self._settings.learning_rate * self._learning_rate_factor()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        total, start = 0.0, 0
        for number, batch in enumerate(batches, start=1):
            row = self.model.pack(batch)
            self._engine.set_gradient_accumulation_boundary(number == len(batches))
            logprobs, entropies = self._engine(row, temperature=temperature)
            part = loss(logprobs, entropies, slice(start, start + len(row.targets)))
            self._engine.backward(part, scale_wrt_gas=False)
            total, start = total + part.item(), start + len(row.targets)
        grad_norm = self._clip_gradients()
        skipped = not (torch.isfinite(grad_norm) and torch.isfinite(torch.tensor(total)))
        if skipped:
            self._engine.zero_grad()
            self._optimizer.zero_grad(set_to_none=True)
        else:
            self._engine.step()
            self.num_updates += 1
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        return UpdateReport(
            loss=total, grad_norm=float(grad_norm), learning_rate=learning_rate, skipped=bool(skipped)
        )

    def logprobs(self, samples: Sequence[Sample], *, temperature: float) -> Tensor:
        """[predicted] log-probs under the current weights, nats, without a gradient."""
        with torch.no_grad():
            return completion_logprobs(self.model, list(samples), self._microbatch_tokens, temperature)

    def weights(self) -> list[tuple[str, Tensor]]:
        """Every tensor by its name in transformers; see `PolicyModel.weights`."""
        return self.model.weights()

    def policy_state(self) -> dict[str, Tensor]:
        """The weights for a checkpoint, each tensor once."""
        return {name: parameter.detach() for name, parameter in self._named_parameters()}

    def optimizer_state(self) -> dict[str, Tensor]:
        """AdamW's moments and step counts by parameter name, and the number of updates."""
        state = {"num_updates": torch.tensor(self.num_updates)}
        for name, parameter in self._named_parameters():
            for key, value in self._optimizer.state[parameter].items():
                state[f"{key}/{name}"] = value.detach().clone()
        return state

    def load_optimizer_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `optimizer_state` gave."""
        self.num_updates = int(state["num_updates"])
        named = dict(self._named_parameters())
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if name:
                parameter = named[name]
                held = value.clone() if kind == "step" else value.to(parameter.device, copy=True)
                self._optimizer.state[parameter][kind] = held

    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        """Overwrite the weights in place, so that optimizer and model keep sharing them."""
        with torch.no_grad():
            for name, parameter in self.model.language_model.named_parameters():
                parameter.copy_(tensors[name])

    def _named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.model.language_model.named_parameters()

    def _clip_gradients(self) -> Tensor:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        return torch.nn.utils.clip_grad_norm_(parameters, self._settings.max_grad_norm)

    def _learning_rate_factor(self) -> float:
        step, warmup = self.num_updates + 1, self._settings.warmup_steps
        if self._settings.schedule == "constant":
            return warmup_constant(step, warmup_steps=warmup)
        return warmup_cosine(step, warmup_steps=warmup, num_steps=self._num_steps)


def _start_deepspeed(model: PolicyModel, settings: OptimizerConfig) -> tuple[Any, torch.optim.AdamW]:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")  # what its launcher would have set
    import deepspeed
    import deepspeed.ops

    # On a CPU DeepSpeed would compile a shared-memory collective here: 42 s, and a failure without a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            "nccl" if torch.cuda.is_available() else "gloo",
            store=torch.distributed.HashStore(),
            rank=0,
            world_size=1,
        )
    deepspeed.init_distributed(dist_init_required=False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.95)
    )
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 1 << 30,
        },
    )
    return engine, optimizer
