"""The policy trainer, and the version it holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import ObjectRef

from rl_empathy.config.sections import DeadlinesConfig
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.group_handle import GroupHandle
from rl_empathy.types import PolicyVersion, Resumed


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
