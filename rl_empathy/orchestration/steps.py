"""The trainer's half of asynchronous GRPO: what a step is, which groups it trains, and what a resume needs of it."""

import asyncio
from collections.abc import Sequence
from functools import partial
from statistics import fmean

from rl_empathy.config.sections import GRPOConfig
from rl_empathy.data.prompts import PromptStream
from rl_empathy.errors import Stopped, TrainerLostError
from rl_empathy.observability.ledger import Ledger
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.observability.rollout_metrics import rollout_metrics
from rl_empathy.orchestration.fleet import Fleet, GroupHandle
from rl_empathy.orchestration.group_buffer import GroupBuffer
from rl_empathy.orchestration.step_times import StepClock
from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.orchestration.weight_sync import Publisher
from rl_empathy.types import GroupHeader, GroupRewards, Updated


class Steps:
    """The parts of a step, in the order in which the loop calls them."""

    def __init__(
        self,
        config: GRPOConfig,
        fleet: Fleet,
        ledger: Ledger,
        log: MetricsLog,
        buffer: GroupBuffer,
        publisher: Publisher,
        checkpoints: "Checkpoints",
    ) -> None:
        """Begin to time the first step.

        Args:
            config: Groups of a step, and when there is a checkpoint.
            fleet: Has the policy trainer.
            ledger: Told when a group is trained.
            log: Gets the metrics of every step.
            buffer: Gives the groups, and gets their slots back.
            publisher: Brings a new policy version to the rollout workers.
            checkpoints: Collects what a resume needs.
        """
        self._config = config
        self._fleet = fleet
        self._ledger = ledger
        self._log = log
        self._buffer = buffer
        self._publisher = publisher
        self._checkpoints = checkpoints
        self._clock = StepClock()

    async def take(self, step: int, stop: StopSignal, *, in_rounds: bool) -> list[GroupHandle]:
        """Wait for the groups of a step.

        Args:
            step: Number of the step.
            stop: Ends the wait.
            in_rounds: Let a wait that has begun come to its end, whatever the signal (deterministic runs).

        Raises:
            Stopped: `stop` was set; a checkpoint of the step before was written.
        """
        worth = partial(drop_reason, config=self._config)
        with self._clock.waiting("groups"):
            taking = self._buffer.take(self._config.groups_per_step, step=step, drop_reason=worth)
            groups = await stop.unless_set(taking, cancel=not in_rounds)
        if groups is None:
            await self._checkpoints.copy()
            await self._fleet.trainer.write_snapshot()
            raise Stopped(
                f"stopped after step {step - 1} of {self._config.num_steps}; the same command goes on"
            )
        return groups

    async def update(
        self, step: int, groups: Sequence[GroupHandle], kept: list[GroupHandle] | None
    ) -> Updated:
        """Train the policy on the groups.

        Args:
            step: Number of the step.
            groups: Groups of the step.
            kept: When the trainer is lost, gets these groups and those that wait for it.

        Raises:
            TrainerLostError: The policy trainer is gone.
        """
        try:
            updated = await self._fleet.trainer.update(groups)
        except TrainerLostError:
            if kept is not None:
                kept += [*groups, *self._buffer.finished()]
            raise
        self._ledger.trained([group.header.occurrence for group in groups], step=step)
        return updated

    async def publish(self, groups: Sequence[GroupHandle]) -> None:
        """Begin to bring the new policy version to the workers, once they have loaded the one before."""
        with self._clock.waiting("publish"):
            await self._publisher.ended()
        # Only when the workers hold the new policy may prompts start on it; the next update may before.
        await self._publisher.publish(then=partial(self._buffer.release_slots, len(groups)))

    def record(self, step: int, groups: Sequence[GroupHandle], updated: Updated) -> None:
        """Write the metrics of a step, and fit the number of rollout workers to what was waited for in it."""
        dropped = self._buffer.dropped_in_take()
        times = self._clock.end_step([*groups, *dropped], busy_s=updated.busy_s)
        made = (rollout_metrics(scored(groups), scored(dropped)), updated.metrics, times.metrics())
        others = (self._publisher.metrics(), self._ledger.metrics(), self._fleet.metrics())
        self._log.write("grpo", step, *made, *others)
        # Before the workers begin to load: one that does cannot be taken away.
        self._fleet.rescale(
            trainer_waits=times.trainer_waits_share, rollout_idle=self._publisher.rollout_idle
        )
        self._checkpoints.seen([*groups, *dropped])

    async def checkpoint(self, step: int, tasks: asyncio.TaskGroup) -> None:
        """Where the step is one with a checkpoint, copy what it needs, and let a task write it."""
        if step % self._config.checkpoint_every == 0 or step == self._config.num_steps:
            with self._clock.waiting("checkpoint"):
                await self._checkpoints.copy()
            tasks.create_task(self._fleet.trainer.write_snapshot())  # beside the next steps


def drop_reason(group: GroupHandle, *, config: GRPOConfig) -> str | None:
    """Why a group is not trained; None when it is. A group that teaches nothing goes with its KL term."""
    if group.rewards is None:
        return "scorer_lost"
    if len(group.rewards.valid) < 2:
        return "reward_failed"
    if config.keep_groups == "with_reward_spread" and not _has_spread(group.rewards, config):
        return "no_reward_spread"
    return None


def _has_spread(rewards: GroupRewards, config: GRPOConfig) -> bool:
    """Whether the advantages differ: `gdpo` scales each term alone, so there two terms never cancel each other."""
    if config.advantage == "gdpo":
        return rewards.a_term_has_spread
    return rewards.has_spread


def scored(groups: Sequence[GroupHandle]) -> list[tuple[GroupHeader, GroupRewards]]:
    """Header and rewards of those that have rewards."""
    return [(group.header, group.rewards) for group in groups if group.rewards]


class Checkpoints:
    """What a resume needs, collected for the trainer, which keeps and writes it."""

    def __init__(self, fleet: Fleet, prompts: PromptStream, ledger: Ledger, buffer: GroupBuffer) -> None:
        self._fleet = fleet
        self._prompts = prompts
        self._ledger = ledger
        self._buffer = buffer
        self._rewards: list[float] = []
        self._has_steps = False
        self._score: float | None = None

    def seen(self, groups: Sequence[GroupHandle]) -> None:
        """Count the mean reward of a step: that of all since the last copy tells how good a checkpoint is."""
        if rewards := [total for group in groups if group.rewards for total in group.rewards.valid]:
            self._rewards.append(fmean(rewards))
        self._has_steps = True

    async def copy(self) -> None:
        """Have the trainer copy its weights, where the prompts stand, the ledger, and groups that wait for it."""
        finished = self._buffer.finished()
        kept = {group.header.occurrence for group in finished}
        opened = [*self._prompts.opened, *self._ledger.unfinished()]
        state = {
            "cursor": list(self._prompts.cursor),
            "opened": [list(occurrence) for occurrence in opened if occurrence not in kept],
            "ledger": self._ledger.state(),
        }
        if self._has_steps:  # else it is the step of the copy before
            self._score = fmean(self._rewards) if self._rewards else None
            self._rewards, self._has_steps = [], False
        await self._fleet.trainer.snapshot(state, finished, self._score)
