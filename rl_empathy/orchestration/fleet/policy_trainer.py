"""The policy trainer, and the version it holds."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from ray import ObjectRef

from rl_empathy.config.sections import DeadlinesConfig
from rl_empathy.errors import PayloadLostError, TrainerLostError
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.group_handle import GroupHandle
from rl_empathy.orchestration.fleet.restarts import LOST, RestartBudget, start_anew
from rl_empathy.types import PolicyVersion, Resumed


class PolicyTrainerHandle:
    """The policy trainer; when it is lost, `rebuild` brings it back to its last checkpoint.

    Every method but `rebuild` raises `TrainerLostError` when the trainer dies or does not answer.
    """

    def __init__(
        self,
        role: Role,
        start: Callable[[], Awaitable[Role]],
        deadlines: DeadlinesConfig,
        budget: RestartBudget,
    ) -> None:
        """Take over a trainer that is up.

        Args:
            role: The actor.
            start: Starts another one, of the next attempt.
            deadlines: Of the calls.
            budget: Of restarts.
        """
        self._role = role
        self._start = start
        self._deadlines = deadlines
        self._budget = budget
        self.version = PolicyVersion(0, 0)

    async def resume(self) -> Resumed:
        """Have it load the newest checkpoint, if there is one: what the driver needs of it."""
        self.version, resumed = await self._answer(
            self._role.actor.resume.remote(), self._deadlines.checkpoint_s, "load its checkpoint"
        )
        return resumed  # type: ignore[no-any-return]

    async def rebuild(self, error: Exception) -> None:
        """Start another trainer in the place of one that is lost; it has yet to `resume`.

        Args:
            error: How it was lost.

        Raises:
            RoleDiedError: The restarts are spent.
        """
        self._role = await start_anew(self._role, self._start, self._budget, error)

    async def update(self, groups: Sequence[GroupHandle]) -> dict[str, float]:
        """Train on groups; the trainer then holds the next version."""
        references = [group.reference_logprobs for group in groups if group.reference_logprobs is not None]
        metrics = await self._answer(
            self._role.actor.update.remote(
                [group.rewards for group in groups],
                bool(references),
                *(g.payload for g in groups),
                *references,
            ),
            self._deadlines.update_s,
            "update the policy",
        )
        self.version = PolicyVersion(self.version.attempt, self.version.number + 1)
        return metrics  # type: ignore[no-any-return]

    async def weights(self) -> "ObjectRef[Any]":
        """The weights now held, as a reference into the object store, where they are when this returns."""
        done, weights = self._role.actor.weights.options(num_returns=2).remote()
        await self._answer(done, self._deadlines.publish_s, "put its weights into the object store")
        return weights

    async def save_checkpoint(self, driver: dict[str, Any], finished: Sequence[GroupHandle]) -> float:
        """Write a checkpoint: seconds taken."""
        call = self._role.actor.save_checkpoint.remote(driver, *(group.payload for group in finished))
        return await self._answer(call, self._deadlines.checkpoint_s, "write a checkpoint")  # type: ignore[no-any-return]

    async def export(self, folder: Path) -> None:
        """Write the policy as a transformers model."""
        call = self._role.actor.export.remote(str(folder))
        await self._answer(call, self._deadlines.checkpoint_s, "export the model")

    def kill(self) -> None:
        """End the process at once, for good."""
        self._role.kill()

    async def _answer(self, call: "ObjectRef[Any]", seconds: float, doing: str) -> Any:
        try:
            return await self._role.answer(call, seconds=seconds, doing=doing)
        except (
            *LOST,
            PayloadLostError,
        ) as error:  # a group that is gone is opened again by going back as well
            raise TrainerLostError(str(error)) from error
