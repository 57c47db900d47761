"""The policy trainer: a training engine with a mailbox."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import torch.distributed as dist

from rl_empathy.config.sections import GRPOConfig, PolicyTrainerConfig
from rl_empathy.data.rollouts import group_from_json, group_to_json, rollout_lines
from rl_empathy.engines.agreement import compare_with_vllm
from rl_empathy.engines.checkpoints import write_checkpoint
from rl_empathy.engines.grpo_batch import ScoredGroup
from rl_empathy.engines.grpo_update import grpo_step, staleness_metrics
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.ranks import meet, open_store
from rl_empathy.engines.sharded_training import OPTIMIZER
from rl_empathy.engines.training import POLICY, TrainingEngine
from rl_empathy.engines.weight_arrays import PublishedWeights
from rl_empathy.observability.memory import GIB, available_bytes, own_pulse
from rl_empathy.observability.role_log import divert_output
from rl_empathy.schema import OutputSchema
from rl_empathy.types import GroupRewards, PolicyVersion, Pulse, Resumed, RolloutGroup, Updated

ROOM_FOR_COPY = 0.5
"""Share of the free memory that a copy for a checkpoint may take: the next update needs some as well."""

log = logging.getLogger(__name__)


class PolicyTrainer:
    """A rank of those that hold the policy's weights and optimizer; everything that is trained passes here.

    Every rank gets every call, and rank 0 alone writes and answers.
    """

    def __init__(
        self,
        model_path: str,
        config: GRPOConfig,
        settings: PolicyTrainerConfig,
        log: str,
        *,
        rank: int,
        dtype: str,
        schema: OutputSchema,
        folder: str,
        rollouts_folder: str,
        attempt: int,
        seed: int,
    ) -> None:
        divert_output(log)
        torch.manual_seed(seed)
        self._rank = rank
        self._model_path = model_path
        self._dtype = dtype
        self._config = config
        self._settings = settings
        self._schema = schema
        self._folder = Path(folder)
        self._rollouts_folder = Path(rollouts_folder)
        self._version = PolicyVersion(attempt, 0)
        self._snapshot: dict[str, Any] = {}
        self._copying_s = 0.0
        self._compared: set[str] = set()

    def ready(self) -> Pulse:
        """Answer that the process is up: the node it runs on."""
        return own_pulse()

    def open_store(self) -> tuple[str, int]:
        """On rank 0: where the ranks meet, host and port."""
        self._store = open_store(ray.util.get_node_ip_address(), self._settings.ranks)
        return self._store.host, self._store.port

    def load(self, meeting: tuple[str, int] | None) -> None:
        """Load the model, together with the other ranks.

        Args:
            meeting: Where the ranks meet; None when there is one only.
        """
        if meeting is not None:
            store = self._store if self._rank == 0 else dist.TCPStore(*meeting, self._settings.ranks)
            meet(self._rank, self._settings.ranks, store)
        model = PolicyModel(
            self._model_path,
            dtype=self._dtype,
            layout=self._settings.layout,
            gradient_checkpointing=self._settings.gradient_checkpointing,
        )
        self._engine = TrainingEngine(
            model,
            self._config.optimizer,
            num_steps=self._config.num_steps * self._config.updates_per_step,
            microbatch_tokens=self._config.microbatch_tokens,
            zero_stage=self._settings.zero_stage,
        )

    def resume(self) -> tuple[PolicyVersion, Resumed]:
        """Load the newest whole checkpoint: the version held, and what the driver needs of it."""
        checkpoint = self._engine.newest_checkpoint(self._folder)
        if self._rank == 0:
            self._forget_rollouts(after=checkpoint.step if checkpoint else 0)
        if checkpoint is None:
            return self._version, Resumed(notes=self._notes())
        self._engine.load(checkpoint.tensors(POLICY), checkpoint.tensors(OPTIMIZER))
        torch.set_rng_state(checkpoint.tensors("rng")["torch"])
        self._version = PolicyVersion(self._version.attempt, checkpoint.step)
        return self._version, Resumed(
            driver=checkpoint.document("driver"),
            finished=tuple(group_from_json(item) for item in checkpoint.document("finished")),
            damaged=checkpoint.damaged,
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        note = self._engine.model.note
        return (note,) if note else ()

    def update(
        self,
        rewards: list[GroupRewards],
        has_reference: bool,
        microbatch_tokens: int,
        *payloads: RolloutGroup | np.ndarray,
    ) -> Updated:
        """Make one step's updates; the weights are then those of the next version.

        Args:
            rewards: Rewards of every group.
            has_reference: The second half of `payloads` are the groups' reference log-probs.
            microbatch_tokens: Tokens that a forward pass may hold.
            *payloads: The groups, then the reference log-probs.

        Returns:
            What it did.
        """
        started = time.monotonic()
        self._engine.microbatch_tokens = microbatch_tokens
        count = len(rewards)
        groups = [payload for payload in payloads[:count] if isinstance(payload, RolloutGroup)]
        reference = payloads[count:] if has_reference else [None] * count
        scored = [
            ScoredGroup(group=group, rewards=reward, reference_logprobs=logprobs)  # type: ignore[arg-type]
            for group, reward, logprobs in zip(groups, rewards, reference, strict=True)
        ]
        self._compare_with_vllm(groups)
        metrics = grpo_step(self._engine, scored, self._config) | staleness_metrics(groups, self._version)
        self._version = PolicyVersion(self._version.attempt, self._version.number + 1)
        if self._rank == 0:
            self._write_rollouts(groups, rewards)
        trained = sum(len(c.token_ids) for group in groups for c in group.completions)
        update_s = time.monotonic() - started
        busy_s, self._copying_s = update_s + self._copying_s, 0.0
        times = {
            "time/update_s": update_s,
            "time/trainer_busy_s": busy_s,
            "tokens/trained_per_s": trained / update_s,
        }
        return Updated(metrics=metrics | times, busy_s=busy_s)

    def _compare_with_vllm(self, groups: list[RolloutGroup]) -> None:
        """Once with the weights of a folder; and once with trained ones, where a group comes that they wrote: in a
        synchronous run, and after a resume. Otherwise every group is a version older than the weights now held.
        """
        kind = "loaded" if self._version.number == 0 else "published"
        if kind not in self._compared:
            temperature = self._config.sampling.temperature
            if compare_with_vllm(self._engine, groups, self._version, temperature=temperature):
                self._compared.add(kind)

    @contextmanager
    def _copying(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._copying_s += time.monotonic() - started

    def weights(self) -> tuple[None, PublishedWeights]:
        """A header (nothing) for the driver, and the weights of the version now held, to be published."""
        with self._copying():
            return None, PublishedWeights.of(self._engine.weights(), self._version)

    def snapshot(self, driver: dict[str, Any], score: float | None, *finished: RolloutGroup) -> None:
        """Copy policy, optimizer, RNG, the driver's state and finished groups, to be written by `write_snapshot`.

        Where memory has no room for the copy, the checkpoint is written at once, and training waits for it.
        """
        with self._copying():
            policy = self._engine.weights()
            needed = 3 * sum(weight.nbytes for weight in policy.values())  # with both moments
            copy = needed < ROOM_FOR_COPY * available_bytes()
            optimizer = self._engine.optimizer_state(copy=copy)
            if self._rank == 0:
                self._snapshot = {
                    "step": self._version.number,
                    "score": score,
                    "tensors": {
                        POLICY: {name: weight.to("cpu", copy=copy) for name, weight in policy.items()},
                        OPTIMIZER: optimizer,
                        "rng": {"torch": torch.get_rng_state()},
                    },
                    "documents": {"driver": driver, "finished": [group_to_json(group) for group in finished]},
                }
            if not copy:
                log.warning(
                    "no room for a copy of %.1f GiB: training waits while the checkpoint is written",
                    needed / GIB,
                )
                self.write_snapshot()

    def write_snapshot(self) -> None:
        """Write the last snapshot as a checkpoint, on a thread beside training."""
        if self._snapshot:
            write_checkpoint(self._folder, keep=self._config.keep_checkpoints, **self._snapshot)
            self._snapshot = {}

    def export(self, folder: str) -> None:
        """Write the policy as a transformers model with its tokenizer."""
        self._engine.export(Path(folder), tokenizer_from=self._model_path)

    def _write_rollouts(self, groups: list[RolloutGroup], rewards: list[GroupRewards]) -> None:
        with self._rollouts_of(self._version.number).open(
            "w", encoding="utf-8", errors="backslashreplace"
        ) as file:
            for line in rollout_lines(self._version.number, groups, rewards, self._schema):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _rollouts_of(self, step: int) -> Path:
        return self._rollouts_folder / f"step_{step:06d}.jsonl"

    def _forget_rollouts(self, *, after: int) -> None:
        """Delete the rollouts of steps that a kill has undone; a resume makes those steps anew."""
        for path in self._rollouts_folder.glob("step_*.jsonl"):
            if path > self._rollouts_of(after):
                path.unlink()
