"""The policy trainer: a training engine with a mailbox."""

import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl_empathy.config.sections import GRPOConfig, PolicyTrainerConfig
from rl_empathy.data.rollouts import group_from_json, group_to_json, rollout_lines
from rl_empathy.engines.checkpoints import latest_checkpoint, write_checkpoint
from rl_empathy.engines.grpo_update import ScoredGroup, grpo_step, staleness_metrics
from rl_empathy.engines.policy_model import PolicyModel, save_language_model
from rl_empathy.engines.training import TrainingEngine
from rl_empathy.engines.weight_arrays import PublishedWeights
from rl_empathy.observability.role_log import divert_output
from rl_empathy.schema import OutputSchema
from rl_empathy.types import GroupRewards, PolicyVersion, Resumed, RolloutGroup


class PolicyTrainer:
    """Holds the policy's weights and optimizer; everything that is trained passes here."""

    def __init__(
        self,
        model_path: str,
        config: GRPOConfig,
        resources: PolicyTrainerConfig,
        log: str,
        *,
        dtype: str,
        schema: OutputSchema,
        folder: str,
        rollouts_folder: str,
        attempt: int,
        seed: int,
    ) -> None:
        divert_output(log)
        torch.manual_seed(seed)
        model = PolicyModel(
            model_path,
            dtype=dtype,
            layout=resources.layout,
            gradient_checkpointing=resources.gradient_checkpointing,
        )
        self._engine = TrainingEngine(
            model,
            config.optimizer,
            num_steps=config.num_steps * config.updates_per_step,
            microbatch_tokens=config.microbatch_tokens,
        )
        self._model_path = model_path
        self._config = config
        self._schema = schema
        self._folder = Path(folder)
        self._rollouts_folder = Path(rollouts_folder)
        self._version = PolicyVersion(attempt, 0)

    def ready(self) -> str:
        """Answer once the model is loaded: the node it runs on."""
        return platform.node()

    def resume(self) -> tuple[PolicyVersion, Resumed]:
        """Load the newest whole checkpoint: the version held, and what the driver needs of it."""
        checkpoint = latest_checkpoint(self._folder)
        self._forget_rollouts(after=checkpoint.step if checkpoint else 0)
        if checkpoint is None:
            return self._version, Resumed()
        self._engine.load_weights(checkpoint.tensors("policy"))
        self._engine.load_optimizer_state(checkpoint.tensors("optimizer"))
        torch.set_rng_state(checkpoint.tensors("rng")["torch"])
        self._version = PolicyVersion(self._version.attempt, checkpoint.step)
        return self._version, Resumed(
            driver=checkpoint.document("driver"),
            finished=tuple(group_from_json(item) for item in checkpoint.document("finished")),
            damaged=checkpoint.damaged,
        )

    def update(
        self, rewards: list[GroupRewards], has_reference: bool, *payloads: RolloutGroup | np.ndarray
    ) -> dict[str, float]:
        """Make one step's updates; the weights are then those of the next version.

        Args:
            rewards: Of every group.
            has_reference: The second half of `payloads` are the groups' reference log-probs.
            *payloads: The groups, then the reference log-probs.

        Returns:
            Metrics of the step.
        """
        started = time.monotonic()
        count = len(rewards)
        groups = [payload for payload in payloads[:count] if isinstance(payload, RolloutGroup)]
        reference = payloads[count:] if has_reference else [None] * count
        scored = [
            ScoredGroup(group=group, rewards=reward, reference_logprobs=logprobs)  # type: ignore[arg-type]
            for group, reward, logprobs in zip(groups, rewards, reference, strict=True)
        ]
        metrics = grpo_step(self._engine, scored, self._config) | staleness_metrics(groups, self._version)
        self._version = PolicyVersion(self._version.attempt, self._version.number + 1)
        self._write_rollouts(groups, rewards)
        trained = sum(len(c.token_ids) for group in groups for c in group.completions)
        update_s = time.monotonic() - started
        return metrics | {"time/update_s": update_s, "tokens/trained_per_s": trained / update_s}

    def weights(self) -> tuple[None, PublishedWeights]:
        """A header (nothing) for the driver, and the weights of the version now held, to be published."""
        return None, PublishedWeights.of(self._engine.weights(), self._version)

    def save_checkpoint(self, driver: dict[str, Any], *finished: RolloutGroup) -> float:
        """Write policy, optimizer, RNG, the driver's state and finished groups as one checkpoint: seconds taken."""
        started = time.monotonic()
        write_checkpoint(
            self._folder,
            self._version.number,
            tensors={
                "policy": self._engine.policy_state(),
                "optimizer": self._engine.optimizer_state(),
                "rng": {"torch": torch.get_rng_state()},
            },
            documents={"driver": driver, "finished": [group_to_json(group) for group in finished]},
            keep=self._config.keep_checkpoints,
        )
        return time.monotonic() - started

    def export(self, folder: str) -> None:
        """Write the policy as a transformers model with its tokenizer."""
        save_language_model(self._engine.model.language_model, Path(folder), tokenizer_from=self._model_path)

    def _write_rollouts(self, groups: list[RolloutGroup], rewards: list[GroupRewards]) -> None:
        with self._rollouts_of(self._version.number).open("w", encoding="utf-8") as file:
            for line in rollout_lines(self._version.number, groups, rewards, self._schema):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _rollouts_of(self, step: int) -> Path:
        return self._rollouts_folder / f"step_{step:06d}.jsonl"

    def _forget_rollouts(self, *, after: int) -> None:
        """Delete the rollouts of steps that a kill has undone; a resume makes those steps anew."""
        for path in self._rollouts_folder.glob("step_*.jsonl"):
            if path > self._rollouts_of(after):
                path.unlink()
