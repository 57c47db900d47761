"""Typed handles over the actors: one object a role, however many processes.

In training actors are reached from here and from `calls.py` only.

A rollout comes back as a small header and a payload that stays in the object store. The driver owns both, so the
payload outlives its maker, and passes it on by reference. Every wait has a deadline (C6).
"""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import ray
from ray import ObjectRef

from rl_empathy.actors.tracker import Tracker
from rl_empathy.config.sections import DeadlinesConfig, GRPOConfig, SamplingConfig
from rl_empathy.errors import RoleDiedError, RoleTimeoutError, WeightSyncError
from rl_empathy.orchestration.calls import Role
from rl_empathy.types import GroupHeader, GroupRewards, PolicyVersion, Prompt, Resumed, RolloutGroup

TRACKER_S = 60
"""How long the end of a run waits for the tracker's files, seconds."""


@dataclass(frozen=True, kw_only=True)
class GroupHandle:
    """A group as the driver sees it: the header here, the payload where it was made."""

    header: GroupHeader
    payload: "ObjectRef[RolloutGroup]"
    rewards: GroupRewards | None = None
    reference_logprobs: "ObjectRef[Any] | None" = None

    def scored(self, rewards: GroupRewards, reference_logprobs: "ObjectRef[Any] | None") -> Self:
        return replace(self, rewards=rewards, reference_logprobs=reference_logprobs)


class RolloutWorkers:
    """All rollout workers seen as one: `sample` goes to one of them, `load_weights` to every one."""

    def __init__(
        self, workers: Sequence[Role], deadlines: DeadlinesConfig, *, seed: int, in_step: bool
    ) -> None:
        """Take the workers over.

        Args:
            workers: The actors.
            deadlines: Of the calls.
            seed: The run's; a request's seed follows from it and the occurrence.
            in_step: Worker = index of the prompt modulo workers, and a worker begins only when its whole share of a
                cohort is there (deterministic runs); otherwise the one with the fewest groups under way is asked.
        """
        self._workers = workers
        self._load = [0] * len(workers)
        self._deadlines = deadlines
        self._seed = seed
        self._in_step = in_step

    def __len__(self) -> int:
        return len(self._workers)

    async def sample(
        self, prompt: Prompt, *, sampling: SamplingConfig, group_size: int, cohort: Sequence[Prompt] = ()
    ) -> GroupHandle:
        """Have a group written; `cohort` holds the prompts that start together with this one."""
        number, together = self._choose(prompt, cohort)
        worker = self._workers[number]
        self._load[number] += 1
        try:
            header, payload = worker.actor.sample.options(num_returns=2).remote(
                prompt, sampling, group_size, self._request_seed(prompt), together
            )
            doing = f"sample the group of prompt {prompt.row.id}"
            return GroupHandle(
                header=await worker.answer(header, seconds=self._deadlines.sample_s, doing=doing),
                payload=payload,
            )
        finally:
            self._load[number] -= 1

    async def load_weights(self, weights: "ObjectRef[Any]", version: PolicyVersion) -> list[dict[str, float]]:
        """Have every worker load a version: pause, busy seconds and tokens of each.

        Raises:
            WeightSyncError: A worker holds another version afterwards.
        """
        reports = await asyncio.gather(
            *(
                worker.answer(
                    worker.actor.load_weights.remote(weights),
                    seconds=self._deadlines.publish_s,
                    doing=f"load policy version {version}",
                )
                for worker in self._workers
            )
        )
        for worker, (held, _) in zip(self._workers, reports, strict=True):
            if held != version:
                raise WeightSyncError(
                    f"{worker} holds version {held} after the publish of {version}: {worker.log}"
                )
        return [stats for _, stats in reports]

    async def load_model(self, folder: Path, version: PolicyVersion) -> None:
        """Have every worker load the weights of a model folder of the same architecture."""
        await asyncio.gather(
            *(
                worker.answer(
                    worker.actor.load_model.remote(str(folder), version),
                    seconds=self._deadlines.publish_s,
                    doing=f"load the model {folder}",
                )
                for worker in self._workers
            )
        )

    async def payload(self, group: GroupHandle) -> RolloutGroup:
        """Fetch a payload into this process, for evaluation."""
        return await self._workers[0].answer(
            group.payload,
            seconds=self._deadlines.sample_s,
            doing=f"hand over the group of {group.header.row_id}",
        )

    def _choose(self, prompt: Prompt, cohort: Sequence[Prompt]) -> tuple[int, int]:
        if not self._in_step:
            return min(range(len(self._workers)), key=self._load.__getitem__), 1
        number = prompt.occurrence.index % len(self._workers)
        return number, sum(p.occurrence.index % len(self._workers) == number for p in cohort)

    def _request_seed(self, prompt: Prompt) -> int:
        return random.Random(f"{self._seed}/{prompt.occurrence}").getrandbits(31)


class RewardModelHandle:
    """The reward model."""

    def __init__(self, role: Role, deadlines: DeadlinesConfig) -> None:
        self._role = role
        self._deadlines = deadlines

    async def score(self, group: GroupHandle) -> GroupRewards:
        return await self._role.answer(
            self._role.actor.score.remote(group.payload),
            seconds=self._deadlines.score_s,
            doing=f"score the group of prompt {group.header.row_id}",
        )

    async def witness(self, group: GroupHandle) -> list[float | None]:
        """What an encoder that trained nothing says of the answers."""
        return await self._role.answer(  # type: ignore[no-any-return]
            self._role.actor.witness.remote(group.payload),
            seconds=self._deadlines.score_s,
            doing=f"compare the group of prompt {group.header.row_id}",
        )


class ShuffledRewards:
    """The control that must not learn: a reward model whose totals are permuted within each group."""

    def __init__(self, rewards: RewardModelHandle, *, seed: int) -> None:
        self._rewards = rewards
        self._seed = seed

    async def score(self, group: GroupHandle) -> GroupRewards:
        rewards = await self._rewards.score(group)
        totals = list(rewards.totals)
        random.Random(f"{self._seed}/shuffle/{group.header.occurrence}").shuffle(totals)
        return replace(rewards, totals=tuple(totals))


class ReferenceModelHandle:
    """The reference model."""

    def __init__(self, role: Role, config: GRPOConfig, deadlines: DeadlinesConfig) -> None:
        self._role = role
        self._temperature = config.sampling.temperature
        self._deadlines = deadlines

    async def logprobs(self, group: GroupHandle) -> "ObjectRef[Any] | None":
        done, logprobs = self._role.actor.logprobs.options(num_returns=2).remote(
            group.payload, self._temperature
        )
        doing = f"give the reference log-probs of prompt {group.header.row_id}"
        await self._role.answer(done, seconds=self._deadlines.score_s, doing=doing)
        return logprobs


class NoReferenceModel:
    """Stands in where the KL coefficient is 0: no actor, no log-probs."""

    async def logprobs(self, group: GroupHandle) -> None:
        return None


class PolicyTrainerHandle:
    """The policy trainer, and the version it holds."""

    def __init__(self, role: Role, deadlines: DeadlinesConfig) -> None:
        self._role = role
        self._deadlines = deadlines
        self.version = PolicyVersion(0, 0)

    async def resume(self) -> Resumed:
        """Have it load the newest checkpoint, if there is one: what the driver needs of it."""
        self.version, resumed = await self._role.answer(
            self._role.actor.resume.remote(),
            seconds=self._deadlines.checkpoint_s,
            doing="load its checkpoint",
        )
        return resumed  # type: ignore[no-any-return]

    async def update(self, groups: Sequence[GroupHandle]) -> dict[str, float]:
        """Train on groups; the trainer then holds the next version."""
        references = [group.reference_logprobs for group in groups if group.reference_logprobs is not None]
        metrics = await self._role.answer(
            self._role.actor.update.remote(
                [group.rewards for group in groups],
                bool(references),
                *(g.payload for g in groups),
                *references,
            ),
            seconds=self._deadlines.update_s,
            doing="update the policy",
        )
        self.version = PolicyVersion(self.version.attempt, self.version.number + 1)
        return metrics  # type: ignore[no-any-return]

    def weights(self) -> "ObjectRef[Any]":
        """The weights now held, as a reference into the object store."""
        return self._role.actor.weights.remote()

    async def save_checkpoint(self, driver: dict[str, Any], finished: Sequence[GroupHandle]) -> float:
        """Write a checkpoint: seconds taken."""
        return await self._role.answer(
            self._role.actor.save_checkpoint.remote(driver, *(group.payload for group in finished)),
            seconds=self._deadlines.checkpoint_s,
            doing="write a checkpoint",
        )

    async def export(self, folder: Path) -> None:
        """Write the policy as a transformers model."""
        await self._role.answer(
            self._role.actor.export.remote(str(folder)),
            seconds=self._deadlines.checkpoint_s,
            doing="export the model",
        )


class TrackerHandle:
    """The tracker; a sink of `MetricsLog` that never makes the run wait."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @classmethod
    def start(cls, folder: Path, name: str, project: str, mode: str, config: Mapping[str, Any]) -> Self:
        """Start the tracker beside the run; it answers when it is asked to finish."""
        actor: Any = ray.remote(Tracker)
        return cls(actor.options(num_cpus=0).remote(str(folder), name, project, mode, dict(config)))

    def __call__(self, line: Mapping[str, Any]) -> None:
        self._actor.log.remote(dict(line))

    async def finish(self) -> str:
        """The directory to sync; empty when nothing was recorded or the tracker is late (it never ends a run)."""
        role = Role(name="tracker", actor=self._actor, log=Path("Ray's own worker logs"))
        try:
            return await role.answer(self._actor.finish.remote(), seconds=TRACKER_S, doing="finish")
        except (RoleTimeoutError, RoleDiedError) as error:
            logging.getLogger(__name__).warning("%s; metrics.jsonl has every number", error)
            return ""


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
