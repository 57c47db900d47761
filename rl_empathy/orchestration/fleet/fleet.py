"""The roles of a GRPO run."""

from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray import ObjectRef

from rl_empathy.orchestration.fleet.group_handle import GroupHandle
from rl_empathy.orchestration.fleet.policy_trainer import PolicyTrainerHandle
from rl_empathy.orchestration.fleet.rollout_workers import RolloutWorkers
from rl_empathy.types import GroupHeader, GroupRewards, RolloutGroup


class RewardScorer(Protocol):
    async def score(self, group: GroupHandle) -> GroupRewards: ...


class ReferenceScorer(Protocol):
    async def logprobs(self, group: GroupHandle) -> "ObjectRef[Any] | None": ...


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The roles of a GRPO run."""

    trainer: PolicyTrainerHandle
    rollout_workers: RolloutWorkers
    reward_model: RewardScorer
    reference_model: ReferenceScorer

    def adopt(self, group: RolloutGroup) -> GroupHandle:
        """Put a group of a checkpoint back into the object store."""
        return GroupHandle(
            header=GroupHeader.of(group, worker="checkpoint", sample_s=0.0), payload=ray.put(group)
        )
