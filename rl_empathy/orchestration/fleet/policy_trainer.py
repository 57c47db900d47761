"""The policy trainer, and the version it holds."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from ray import ObjectRef

from rl_empathy.config.sections import DeadlinesConfig
from rl_empathy.errors import OutOfMemoryError, PayloadLostError, TrainerLostError
from rl_empathy.orchestration.fleet.calls import BESIDE
from rl_empathy.orchestration.fleet.group_handle import GroupHandle
from rl_empathy.orchestration.fleet.ranks import Ranks
from rl_empathy.orchestration.fleet.references import hear_errors
from rl_empathy.orchestration.fleet.restarts import LOST, RestartBudget, start_anew
from rl_empathy.types import PolicyVersion, Resumed, Updated


class PolicyTrainerHandle:
    """The policy trainer; when it is lost, `rebuild` brings it back to its last checkpoint.

    Every method but `rebuild` raises `TrainerLostError` when a rank dies or does not answer.
    """

    def __init__(
        self,
        ranks: Ranks,
        start: Callable[[], Awaitable[Ranks]],
        deadlines: DeadlinesConfig,
        budget: RestartBudget,
        *,
        microbatch_tokens: Callable[[], int],
    ) -> None:
        """Take over a trainer that is up.

        Args:
            ranks: The actors.
            start: Starts others, of the next attempt.
            deadlines: Deadlines of the calls.
            budget: Budget of restarts.
            microbatch_tokens: As an update is to have it; asked before each.
        """
        self._ranks = ranks
        self._start = start
        self._deadlines = deadlines
        self._budget = budget
        self.microbatch_tokens = microbatch_tokens
        self._writing = asyncio.Lock()
        self._idle, self._gone = asyncio.Event(), True
        self.version = PolicyVersion(0, 0)

    async def resume(self) -> Resumed:
        """Have it load the newest checkpoint, if there is one: what the driver needs of it."""
        self.version, resumed = await self._call(
            lambda actor: actor.resume.remote(), self._deadlines.checkpoint_s, "load its checkpoint"
        )
        self._gone = False
        self._idle.set()
        return resumed  # type: ignore[no-any-return]

    async def rebuild(self, error: Exception) -> None:
        """Start another trainer in the place of one that is lost; it has yet to `resume`.

        Args:
            error: How it was lost.

        Raises:
            OutOfMemoryError: It ran out of memory, and had done so before.
            RoleDiedError: The restarts are spent.
        """
        cause = error.__cause__ if isinstance(error.__cause__, OutOfMemoryError) else error
        self._ranks = await start_anew(self._ranks, self._start, self._budget, cause)

    async def update(self, groups: Sequence[GroupHandle]) -> Updated:
        """Train on groups; the trainer then holds the next version."""
        self._idle.clear()
        rewards = [group.rewards for group in groups]
        references = [group.reference_logprobs for group in groups if group.reference_logprobs is not None]
        updated = await self._call(
            lambda actor: actor.update.remote(
                rewards,
                bool(references),
                self.microbatch_tokens(),
                *(g.payload for g in groups),
                *references,
            ),
            self._deadlines.update_s,
            "update the policy",
        )
        self.version = PolicyVersion(self.version.attempt, self.version.number + 1)
        self._idle.set()
        return updated  # type: ignore[no-any-return]

    async def weights(self) -> "ObjectRef[Any]":
        """The weights now held, as a reference into the object store, where they are when this returns."""
        weights: list[ObjectRef[Any]] = []

        def make(actor: Any) -> "ObjectRef[Any]":
            done, held = actor.weights.options(num_returns=2).remote()
            hear_errors(done, held)
            weights.append(held)
            return done  # type: ignore[no-any-return]

        await self._call(make, self._deadlines.publish_s, "put its weights into the object store")
        return weights[0]

    async def snapshot(
        self, driver: dict[str, Any], finished: Sequence[GroupHandle], score: float | None
    ) -> None:
        """Have it keep a copy of what a checkpoint holds, once the one before is written."""
        async with self._writing:
            await self._call(
                lambda actor: actor.snapshot.remote(driver, score, *(group.payload for group in finished)),
                self._deadlines.checkpoint_s,
                "copy its state for a checkpoint",
            )

    async def write_snapshot(self) -> None:
        """Have it write the copy as a checkpoint; it may train meanwhile."""
        async with self._writing:
            await self._call(
                lambda actor: actor.write_snapshot.options(concurrency_group=BESIDE).remote(),
                self._deadlines.checkpoint_s,
                "write a checkpoint",
            )

    async def export(self, folder: Path) -> None:
        """Write the policy as a transformers model."""
        await self._call(
            lambda actor: actor.export.remote(str(folder)), self._deadlines.checkpoint_s, "export the model"
        )

    def kill(self) -> None:
        """End the processes at once, for good."""
        self._leave()
        self._ranks.kill()

    async def until_idle(self) -> bool:
        """Wait until no update is under way, so that it holds `version`; false: it is gone."""
        await self._idle.wait()
        return not self._gone

    def _leave(self) -> None:
        self._gone = True
        self._idle.set()  # nobody waits for one that is gone

    async def _call(self, make: Callable[[Any], "ObjectRef[Any]"], seconds: float, doing: str) -> Any:
        ranks = self._ranks
        try:
            return await ranks.call(make, seconds=seconds, doing=doing)
        except (*LOST, PayloadLostError) as error:  # going back opens a group that is gone again as well
            if ranks is self._ranks:  # else another one is in its place by now
                self._leave()
            raise TrainerLostError(str(error)) from error
