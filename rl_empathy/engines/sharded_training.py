"""What the training engines share: DeepSpeed around a module, its steps, and its state whole. Knows no Ray."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rl_empathy.algorithms.schedules import scheduled
from rl_empathy.config.sections import OptimizerConfig
from rl_empathy.engines.checkpoints import Checkpoint, folder_name, latest_checkpoint, write_checkpoint
from rl_empathy.engines.ranks import from_every_rank, meet_alone
from rl_empathy.engines.shards import Shards, ZeroStage, start_deepspeed
from rl_empathy.engines.trainable import Trainable
from rl_empathy.errors import CheckpointError
from rl_empathy.observability.memory import FreedMemory

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's moments, by torch's names."""
OPTIMIZER = "optimizer"
KEEP_CHECKPOINTS = 2
"""Of those that `ShardedTraining.write_checkpoint` writes: the newest, and the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """What one optimizer step did."""

    loss: float
    """Sum of the ranks' losses."""
    grad_norm: float
    """Global norm before clipping."""
    learning_rate: float
    skipped: bool
    """Loss or gradient was not finite; the weights are what they were."""


class ShardedTraining(ABC):
    """A module with its optimizer, on one rank of those that hold them. Every rank makes every call.

    Which loss a module has, and on which share of the data, its subclasses say.
    """

    def __init__(
        self,
        module: nn.Module,
        trainable: Trainable,
        optimizer: OptimizerConfig,
        *,
        num_steps: int,
        zero_stage: ZeroStage,
        betas: tuple[float, float],
    ) -> None:
        """Give the module to DeepSpeed. The ranks have met before (`ranks.meet`); who has not is the only one.

        Args:
            module: On this rank, whole.
            trainable: What of it is trained, and what it is for others.
            optimizer: AdamW and its schedule.
            num_steps: Optimizer steps in all, for the schedule.
            zero_stage: What the ranks shard: 0 nothing; 2 moments and gradients; 3 weights too.
            betas: AdamW's.
        """
        meet_alone()
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.num_updates = 0
        self.skipped_in_a_row = 0
        self._settings = optimizer
        self._num_steps = num_steps
        self._trainable = trainable
        self._freed_memory = FreedMemory()
        self._engine, self._optimizer = start_deepspeed(module, optimizer, zero_stage, betas)
        self._shards = Shards(self._engine, self._optimizer, zero_stage, optimizer.max_grad_norm)

    def _step(self, loss: float) -> UpdateReport:
        """Make one optimizer step with the gradients that the ranks have.

        Args:
            loss: Of this rank's share.

        Returns:
            What happened, the same on every rank. A loss or gradient that is not finite leaves the weights alone.
        """
        total = sum(from_every_rank(loss))
        learning_rate = self._settings.learning_rate * self._learning_rate_factor()
        self._set_learning_rate(learning_rate)
        grad_norm = self._shards.step()
        self._freed_memory.give_back()
        skipped = not math.isfinite(grad_norm)
        self.num_updates += not skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        return UpdateReport(loss=total, grad_norm=grad_norm, learning_rate=learning_rate, skipped=skipped)

    def _backward(self, loss: Tensor) -> None:
        """Add the gradients of a part of this rank's loss; the ranks' losses are summed."""
        if not loss.isfinite():
            # The gradient then is not finite either, so that one check serves for both.
            loss = loss * torch.nan
        self._engine.backward(loss * self.ranks, scale_wrt_gas=False)  # DeepSpeed averages over the ranks

    @abstractmethod
    def _zero_gradients(self) -> None:
        """Make gradients of zero, of every weight."""

    def weights(self) -> dict[str, Tensor]:
        """Every tensor by its published name, buffers too, a tied one once. All ranks call, rank 0 gets them."""
        weights = {}
        for name, tensor in self._trainable.published():
            whole = self._shards.whole(tensor)  # let go at once on the other ranks
            if self.rank == 0:
                weights[name] = whole
        return weights

    def optimizer_state(self, *, copy: bool = True) -> dict[str, Tensor]:
        """AdamW's moments by parameter name, and the number of updates. All ranks call it, rank 0 gets them.

        Args:
            copy: Give copies, which the next update leaves alone: two more tensors of each weight's size.
        """
        state = {"num_updates": torch.tensor(self.num_updates)}
        for name, parameter in self._trainable.parameters():
            for key in MOMENTS if self.num_updates else ():
                moment = self._shards.moment(parameter, key, copy=copy)
                if self.rank == 0:
                    state[f"{key}/{name}"] = moment
        return state

    def write_checkpoint(self, folder: Path, step: int, *, name: str, documents: Mapping[str, Any]) -> Path:
        """Write weights and optimizer. All ranks call it, rank 0 writes.

        Args:
            folder: Holds the checkpoints of one stage.
            step: The step that it is taken after.
            name: Name of the file with the weights.
            documents: JSON values by file.

        Returns:
            The checkpoint's folder.

        Raises:
            CheckpointError: It could not be written.
        """
        tensors = {name: self.weights(), OPTIMIZER: self.optimizer_state(copy=False)}
        if self.rank == 0:
            write_checkpoint(folder, step, tensors=tensors, documents=documents, keep=KEEP_CHECKPOINTS)
        return folder / folder_name(step)

    def newest_checkpoint(self, folder: Path) -> Checkpoint | None:
        """The newest whole checkpoint of a stage, the same on every rank.

        Raises:
            CheckpointError: The ranks see different ones, or every one is damaged.
        """
        checkpoint = latest_checkpoint(folder)
        steps = from_every_rank(checkpoint.step if checkpoint else 0)
        if len({*steps}) > 1:
            raise CheckpointError(
                f"the ranks see different newest checkpoints in {folder} (steps {steps}): is it the same folder on "
                "every node? Start again in a moment"
            )
        return checkpoint

    def read_checkpoint(self, checkpoint: Checkpoint, *, name: str) -> None:
        """Go on from what `write_checkpoint` wrote, whatever the number of ranks was then.

        Raises:
            CheckpointError: It is of another version of this program.
        """
        try:
            self.load(checkpoint.tensors(name), checkpoint.tensors(OPTIMIZER))
        except KeyError as error:
            raise CheckpointError(
                f"{checkpoint.path} lacks {error}: another version of this program wrote it; begin anew with --fresh"
            ) from error

    def load(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Put back what `weights` and `optimizer_state` gave, whatever the number of ranks was then."""
        self.num_updates = int(optimizer["num_updates"])
        if self.num_updates and self._shards.makes_moments:
            self._step_without_change()
        for name, tensor in self._trainable.published():
            if isinstance(tensor, nn.Parameter):
                self._shards.set_weight(tensor, weights[name])
            else:
                tensor.copy_(weights[name])
        for name, parameter in self._trainable.parameters():
            for key in MOMENTS if self.num_updates else ():
                self._shards.set_moment(parameter, key, optimizer[f"{key}/{name}"])
        self._shards.set_step(self.num_updates)

    def _step_without_change(self) -> None:
        """Make a step in which AdamW gets its moments, which a checkpoint then fills."""
        self._set_learning_rate(0.0)  # the weight decay is multiplied by it
        self._zero_gradients()
        self._shards.step()

    def _set_learning_rate(self, learning_rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def _learning_rate_factor(self) -> float:
        settings = self._settings
        return scheduled(
            settings.schedule,
            self.num_updates + 1,
            warmup_steps=settings.warmup_steps,
            num_steps=self._num_steps,
        )
