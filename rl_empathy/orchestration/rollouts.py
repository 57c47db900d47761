"""The producer's half of asynchronous GRPO: prompts start as slots come free, are sampled and scored, and wait."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from statistics import fmean

from rl_empathy.config.sections import GRPOConfig
from rl_empathy.data.prompts import PromptStream
from rl_empathy.errors import PayloadLostError, ScorerLostError
from rl_empathy.observability.ledger import Ledger
from rl_empathy.orchestration.fleet import Fleet, GroupHandle
from rl_empathy.orchestration.group_buffer import GroupBuffer
from rl_empathy.types import GroupHeader, Prompt, RolloutGroup

SHOW_S = 1.0
"""How often one can see what a step is at."""

log = logging.getLogger(__name__)


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

    def adopt(self, finished: Sequence[GroupHandle], *, version: int) -> None:
        """Enter groups of a checkpoint, or of a trainer that was lost.

        They are scored again, not sampled again, unless they would be too stale when trained.

        Args:
            finished: In the order in which they started.
            version: Number of the version that the next step trains.
        """
        adopted: list[GroupHeader] = []
        too_stale: list[GroupHeader] = []
        for handle in finished:
            passed_by = len(adopted) + self._config.look_ahead - 1  # at most
            lag = version + passed_by // self._config.groups_per_step - handle.header.oldest.number
            if lag > self._config.max_staleness:
                too_stale.append(handle.header)
                continue
            self._buffer.adopt(handle, self._tasks.create_task(self._score(handle)))
            adopted.append(handle.header)
        gone = self._prompts.open_again([header.occurrence for header in too_stale])
        self._ledger.rows_gone(gone, step=version + 1)
        if too_stale:
            log.warning(
                "%d groups of the checkpoint would be trained too late and are sampled again: %s; %d are kept: %s",
                len(too_stale), _lengths(too_stale), len(adopted), _lengths(adopted),
            )  # fmt: skip
        if gone:
            log.warning(
                "dropped instead, since their rows are gone (row_gone in ledger.jsonl): %d", len(gone)
            )

    def start(self, show: Callable[[str], None] = lambda text: None) -> None:
        """Begin to start prompts, and tell `show` again and again what the step is at."""
        self._showing = self._tasks.create_task(self._show(show))
        self._producer = self._tasks.create_task(self._start_prompts())
        self._watcher = self._tasks.create_task(self._fleet.rollout_workers.watch())

    def stop(self) -> None:
        """Start no more prompts, and give up what is under way."""
        self._producer.cancel()
        self._watcher.cancel()
        self._showing.cancel()
        self._buffer.cancel_pending()

    async def _show(self, show: Callable[[str], None]) -> None:
        while True:
            show(self._buffer.awaited or f"the update of step {self._fleet.trainer.version.number + 1}")
            await asyncio.sleep(SHOW_S)

    async def _start_prompts(self) -> None:
        while True:
            cohort = self._prompts.take(await self._buffer.reserve_slots())
            for prompt in cohort:
                making = self._tasks.create_task(self._roll_out(prompt, cohort))
                self._buffer.add(prompt.occurrence, making)

    async def _roll_out(self, prompt: Prompt, cohort: Sequence[Prompt]) -> GroupHandle:
        def lost() -> None:
            self._ledger.started_again(prompt.occurrence)

        while True:
            group = await self._fleet.rollout_workers.sample(
                prompt,
                sampling=self._config.sampling,
                group_size=self._config.group_size,
                cohort=cohort,
                lost=lost,
            )
            try:
                return await self._score(group)
            except PayloadLostError as error:
                log.warning("%s; its prompt is sampled again", error)
                lost()

    async def _score(self, group: GroupHandle) -> GroupHandle:
        """Rewards and reference log-probs; none where that costs a scorer its life again and again."""
        try:
            rewards, logprobs = await asyncio.gather(
                self._fleet.reward_model.score(group), self._fleet.reference_model.logprobs(group)
            )
        except ScorerLostError as error:
            log.warning("%s; the group is dropped", error)
            return group
        self._ledger.move(group.header.occurrence, "score")
        return group.scored(rewards, logprobs)


def still_valid(
    kept: Sequence[GroupHandle],
    saved: Sequence[RolloutGroup],
    step: int,
    prompts: PromptStream,
    ledger: Ledger,
    tell: Callable[[str], None],
) -> list[GroupHandle]:
    """Groups that waited for a trainer that ran out of memory, and whose tokens no roll-back has undone.

    Args:
        kept: They; the object store has their payloads.
        saved: Those that the checkpoint has itself.
        step: Step of the checkpoint; later versions are undone.
        prompts: Stands at the checkpoint; gives the prompts of the groups out no more.
        ledger: Stands there, too; says what has ended.
        tell: Told how many.
    """
    there = {group.prompt.occurrence for group in saved}
    valid = [
        group
        for group in sorted(kept, key=lambda group: group.header.occurrence)
        if group.header.newest.number <= step
        and group.header.occurrence not in there
        and not ledger.has_ended(group.header.occurrence)
    ]
    prompts.withhold([group.header.occurrence for group in valid])
    if valid:
        tell(f"{len(valid)} groups that waited for the policy trainer are kept")
    return valid


def _lengths(headers: Sequence[GroupHeader]) -> str:
    """Said of groups that are thrown away, since a bound that costs long ones more would favour short answers."""
    lengths = [tokens for header in headers for tokens in header.completion_tokens]
    return f"{fmean(lengths):.0f} tokens a completion" if lengths else "none"
