"""The producer's half of asynchronous GRPO: prompts start as slots come free, are sampled and scored, and wait."""

import asyncio
from collections.abc import Sequence

from rl_empathy.config.sections import GRPOConfig
from rl_empathy.data.prompts import PromptStream
from rl_empathy.observability.ledger import Ledger
from rl_empathy.orchestration.fleet import Fleet, GroupHandle
from rl_empathy.orchestration.group_buffer import GroupBuffer
from rl_empathy.types import Prompt, RolloutGroup


class Rollouts:
    """Starts prompts for as long as the run lasts: the trainer is the clock."""

    def __init__(
        self,
        config: GRPOConfig,
        fleet: Fleet,
        prompts: PromptStream,
        ledger: Ledger,
        buffer: GroupBuffer,
        tasks: asyncio.TaskGroup,
    ) -> None:
        """Start nothing yet.

        Args:
            config: Sampling and group size.
            fleet: Writes and scores.
            prompts: What to answer, endlessly.
            ledger: Told when a group is scored.
            buffer: Gives the slots, and gets the groups.
            tasks: Where the work is done: one failure cancels the rest and surfaces there.
        """
        self._config = config
        self._fleet = fleet
        self._prompts = prompts
        self._ledger = ledger
        self._buffer = buffer
        self._tasks = tasks

    def adopt(self, finished: Sequence[RolloutGroup]) -> None:
        """Enter groups of a checkpoint: they are scored again, not sampled again."""
        for group in finished:
            scoring = self._tasks.create_task(self._score(self._fleet.adopt(group)))
            self._buffer.adopt(group.prompt.occurrence, scoring)

    def start(self) -> None:
        """Begin to start prompts."""
        self._producer = self._tasks.create_task(self._start_prompts())

    def stop(self) -> None:
        """Start no more prompts, and give up what is under way."""
        self._producer.cancel()
        self._buffer.cancel_pending()

    async def _start_prompts(self) -> None:
        while True:
            cohort = self._prompts.take(await self._buffer.reserve_slots())
            for prompt in cohort:
                making = self._tasks.create_task(self._roll_out(prompt, cohort))
                self._buffer.add(prompt.occurrence, making)

    async def _roll_out(self, prompt: Prompt, cohort: Sequence[Prompt]) -> GroupHandle:
        group = await self._fleet.rollout_workers.sample(
            prompt, sampling=self._config.sampling, group_size=self._config.group_size, cohort=cohort
        )
        return await self._score(group)

    async def _score(self, group: GroupHandle) -> GroupHandle:
        rewards, logprobs = await asyncio.gather(
            self._fleet.reward_model.score(group), self._fleet.reference_model.logprobs(group)
        )
        self._ledger.move(group.header.occurrence, "score")
        return group.scored(rewards, logprobs)
