"""The roles of a GRPO run."""

from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray import ObjectRef

from rl_empathy.orchestration.fleet.group_handle import GroupHandle
from rl_empathy.orchestration.fleet.policy_trainer import PolicyTrainerHandle
from rl_empathy.orchestration.fleet.restarts import RestartBudget
from rl_empathy.orchestration.fleet.workers.rollout_workers import RolloutWorkers
from rl_empathy.orchestration.scaling import Scaler
from rl_empathy.types import GroupHeader, GroupRewards, RolloutGroup


class RewardScorer(Protocol):
    async def score(self, group: GroupHandle) -> GroupRewards: ...


class ReferenceScorer(Protocol):
    async def logprobs(self, group: GroupHandle) -> "ObjectRef[Any] | None": ...

    def kill(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The roles of a GRPO run."""

    trainer: PolicyTrainerHandle
    rollout_workers: RolloutWorkers
    reward_model: RewardScorer
    reference_model: ReferenceScorer
    budget: RestartBudget
    scaler: Scaler | None = None
    """None: the number of workers stays as it is."""

    def metrics(self) -> dict[str, float]:
        """Restarts since this process began, the seconds that they took, and the micro-batch of the next update."""
        return {
            "fleet/restarts": float(self.budget.total),
            "fleet/restart_s": self.budget.seconds,
            "policy/microbatch_tokens": float(self.trainer.microbatch_tokens()),
        }

    def rescale(self, *, trainer_waits: float, rollout_idle: float | None) -> None:
        """Start or take away rollout workers, if a step says so.

        Args:
            trainer_waits: Share of the step for which the trainer waited for groups.
            rollout_idle: Share of it for which the workers had nothing to write; None: nobody knows yet.
        """
        if self.scaler is None or rollout_idle is None:
            return
        decision = self.scaler.decide(
            self.rollout_workers.num_expected, trainer_waits=trainer_waits, rollout_idle=rollout_idle
        )
        if decision:
            self.rollout_workers.roster.scale_to(*decision)

    def end_training(self) -> None:
        """End the roles that nothing wants after the stage; workers and reward model stay for the evaluation."""
        self.trainer.kill()
        self.reference_model.kill()

    def adopt(self, group: RolloutGroup) -> GroupHandle:
        """Put a group of a checkpoint back into the object store."""
        return GroupHandle(
            header=GroupHeader.of(group, worker="checkpoint", sample_s=None), payload=ray.put(group)
        )
