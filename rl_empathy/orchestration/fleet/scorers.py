"""The reward model and the reference model: roles without a state of their own."""

import random
from dataclasses import replace
from typing import Any

from ray import ObjectRef

from rl_empathy.config.sections import DeadlinesConfig, GRPOConfig
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.group_handle import GroupHandle
from rl_empathy.orchestration.fleet.references import hear_errors
from rl_empathy.orchestration.fleet.restarts import RestartableRole
from rl_empathy.types import GroupRewards


class RewardModelHandle:
    """The reward model."""

    def __init__(self, role: RestartableRole, deadlines: DeadlinesConfig) -> None:
        self._role = role
        self._deadlines = deadlines

    async def score(self, group: GroupHandle) -> GroupRewards:
        doing = f"score the group of prompt {group.header.row_id}"
        return await self._role.call(
            lambda role: role.answer(
                role.actor.score.remote(group.payload), seconds=self._deadlines.score_s, doing=doing
            )
        )

    async def similarity_to_post(self, group: GroupHandle) -> list[float | None]:
        """Cosine of each answer with the post; a list of None where no encoder is given."""
        doing = f"compare the group of prompt {group.header.row_id}"
        return await self._role.call(
            lambda role: role.answer(
                role.actor.similarity_to_post.remote(group.payload),
                seconds=self._deadlines.score_s,
                doing=doing,
            )
        )


class ShuffledRewards:
    """The control that must not learn: a reward model whose scores and totals are permuted within each group."""

    def __init__(self, rewards: RewardModelHandle, *, seed: int) -> None:
        self._rewards = rewards
        self._seed = seed

    async def score(self, group: GroupHandle) -> GroupRewards:
        rewards = await self._rewards.score(group)
        order = list(range(len(rewards.totals)))
        random.Random(f"{self._seed}/shuffle/{group.header.occurrence}").shuffle(order)
        return replace(
            rewards,
            totals=tuple(rewards.totals[i] for i in order),
            terms={name: tuple(scores[i] for i in order) for name, scores in rewards.terms.items()},
        )


class ReferenceModelHandle:
    """The reference model."""

    def __init__(self, role: RestartableRole, config: GRPOConfig, deadlines: DeadlinesConfig) -> None:
        self._role = role
        self._temperature = config.sampling.temperature
        self._deadlines = deadlines

    async def logprobs(self, group: GroupHandle) -> "ObjectRef[Any] | None":
        async def ask(role: Role) -> "ObjectRef[Any]":
            done, logprobs = role.actor.logprobs.options(num_returns=2).remote(
                group.payload, self._temperature
            )
            hear_errors(done, logprobs)
            doing = f"give the reference log-probs of prompt {group.header.row_id}"
            await role.answer(done, seconds=self._deadlines.score_s, doing=doing)
            return logprobs

        return await self._role.call(ask)

    def kill(self) -> None:
        """End the process at once, for good."""
        self._role.kill()


class NoReferenceModel:
    """Stands in where the KL coefficient is 0: no actor, no log-probs."""

    async def logprobs(self, group: GroupHandle) -> None:
        return None

    def kill(self) -> None:
        """Nothing runs."""
