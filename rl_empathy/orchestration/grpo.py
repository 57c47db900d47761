"""Asynchronous GRPO.

prompts ──> rollout workers ──> reward model ──> group buffer ──> policy trainer
                  ^             reference model                        │
                  └────────────── weights of policy version n ─────────┘
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean

from rl_empathy.config.changes import require_steps_to_come
from rl_empathy.config.sections import GRPOConfig
from rl_empathy.data.prompts import START, PromptStream
from rl_empathy.errors import OutOfMemoryError, Stopped, TrainerLostError
from rl_empathy.observability.ledger import Ledger
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.observability.rollout_metrics import rollout_metrics
from rl_empathy.orchestration.fleet import Fleet, GroupHandle
from rl_empathy.orchestration.group_buffer import GroupBuffer
from rl_empathy.orchestration.rollouts import Rollouts, still_valid
from rl_empathy.orchestration.step_times import StepClock
from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.orchestration.weight_sync import Publisher
from rl_empathy.types import GroupHeader, GroupRewards, Occurrence, Resumed, RolloutGroup


async def run_attempts(
    config: GRPOConfig,
    fleet: Fleet,
    prompts: PromptStream,
    ledger: Ledger,
    log: MetricsLog,
    *,
    stop: StopSignal,
    tell: Callable[[str], None],
    export_to: Path,
    show: Callable[[str], None] = lambda text: None,
    in_rounds: bool = False,
) -> None:
    """Run the loop from the newest checkpoint, again whenever the policy trainer is lost, until every step is done and
    the policy is exported.

    A trainer that is lost takes the steps after its last checkpoint with it: they are undone here and made anew, so
    that nothing is trained twice and nothing is lost.

    Raises:
        Stopped: `stop` was set; a checkpoint of the last whole step was written.
        RoleDiedError: Restarts are spent.
        RunDirectoryError: The checkpoint is of a later step than the last one wanted.
    """
    kept: list[GroupHandle] = []
    while True:
        try:
            resumed = await fleet.trainer.resume()
            for note in resumed.notes:
                tell(note)
            require_steps_to_come("grpo", fleet.trainer.version.number, config.num_steps)
            for problem in resumed.damaged:
                tell(f"{problem}: going on from step {fleet.trainer.version.number} instead")
            step = fleet.trainer.version.number
            saved = take_up(resumed, step, prompts, ledger, log, tell=tell)
            finished = [*map(fleet.adopt, saved), *still_valid(kept, saved, step, prompts, ledger, tell)]
            kept.clear()
            await run_grpo(
                config,
                fleet,
                prompts,
                ledger,
                log,
                stop=stop,
                finished=finished,
                kept=kept,
                show=show,
                in_rounds=in_rounds,
            )
            await fleet.trainer.export(export_to)
            return
        except* TrainerLostError as lost:
            error = lost.exceptions[0]
            if in_rounds or not isinstance(error.__cause__, OutOfMemoryError):
                kept.clear()  # its node may be gone, and what was on it
        await stop.unless_set(fleet.trainer.rebuild(error))
        if stop.is_set:
            raise Stopped("stopped while the policy trainer was started anew; the same command goes on")


def take_up(
    resumed: Resumed,
    step: int,
    prompts: PromptStream,
    ledger: Ledger,
    log: MetricsLog,
    *,
    tell: Callable[[str], None],
) -> tuple[RolloutGroup, ...]:
    """Put prompts, ledger and metrics where a checkpoint stood: the groups that waited for the trainer there."""
    state = resumed.driver or {"cursor": START, "opened": [], "ledger": []}
    gone = prompts.go_to(Occurrence(*state["cursor"]), [Occurrence(*opened) for opened in state["opened"]])
    ledger.resume(state["ledger"])
    ledger.rows_gone(gone, step=step + 1)
    if gone:
        tell(
            f"prompts under way that are dropped (row_gone in ledger.jsonl), since their rows are gone: {len(gone)}"
        )
    log.cut_back("grpo", step)
    return resumed.finished


async def run_grpo(
    config: GRPOConfig,
    fleet: Fleet,
    prompts: PromptStream,
    ledger: Ledger,
    log: MetricsLog,
    *,
    stop: StopSignal,
    finished: Sequence[GroupHandle] = (),
    kept: list[GroupHandle] | None = None,
    show: Callable[[str], None] = lambda text: None,
    in_rounds: bool = False,
) -> None:
    """Update the policy until `config.num_steps` steps are done.

    Groups that wait for the trainer when it is lost are added to `kept`; `show` is told again and again what the step
    is at.

    At most `slots(config)` groups are between "started" and "published", and they are trained about in the order in
    which they started (`look_ahead`); so none is staler than `max_staleness` policy versions.

    Raises:
        Stopped: `stop` was set; a checkpoint of the last whole step was written.
        TrainerLostError: The policy trainer is gone.
    """
    buffer = GroupBuffer(
        capacity=slots(config),
        look_ahead=config.look_ahead,
        max_dropped=config.max_dropped_groups,
        ledger=ledger,
        in_rounds=in_rounds,
    )
    worth = partial(drop_reason, config=config)
    async with asyncio.TaskGroup() as tasks:
        publisher = Publisher(fleet.trainer, fleet.rollout_workers, tasks, stop)
        await publisher.publish()
        await publisher.ended()  # a worker serves only after a finished refit
        rollouts = Rollouts(config, fleet, prompts, ledger, buffer, tasks)
        rollouts.adopt(finished, version=fleet.trainer.version.number)
        rollouts.start(show)
        clock, checkpoints = StepClock(), Checkpoints(fleet, prompts, ledger, buffer)
        for step in range(fleet.trainer.version.number + 1, config.num_steps + 1):
            with clock.waiting("groups"):
                taking = buffer.take(config.groups_per_step, step=step, drop_reason=worth)
                groups = await stop.unless_set(taking, cancel=not in_rounds)
            if groups is None:
                await checkpoints.copy()
                await fleet.trainer.write_snapshot()
                raise Stopped(
                    f"stopped after step {step - 1} of {config.num_steps}; the same command goes on"
                )
            with keeping(groups, buffer, kept):
                updated = await fleet.trainer.update(groups)
            ledger.trained([group.header.occurrence for group in groups], step=step)
            with clock.waiting("publish"):
                await publisher.ended()
            # Only when the workers hold the new policy may prompts start on it; the next update may before.
            await publisher.publish(then=partial(buffer.release_slots, len(groups)))
            dropped = buffer.dropped_in_take()
            times = clock.end_step([*groups, *dropped], busy_s=updated.busy_s)
            made = (rollout_metrics(scored(groups), scored(dropped)), updated.metrics, times.metrics())
            log.write("grpo", step, *made, publisher.metrics(), ledger.metrics(), fleet.metrics())
            # Before the workers begin to load: one that does cannot be taken away.
            fleet.rescale(trainer_waits=times.trainer_waits_share, rollout_idle=publisher.rollout_idle)
            checkpoints.seen([*groups, *dropped])
            if step % config.checkpoint_every == 0 or step == config.num_steps:
                with clock.waiting("checkpoint"):
                    await checkpoints.copy()
                tasks.create_task(fleet.trainer.write_snapshot())  # beside the next steps
        rollouts.stop()


@contextmanager
def keeping(
    groups: Sequence[GroupHandle], buffer: GroupBuffer, kept: list[GroupHandle] | None
) -> Iterator[None]:
    """When the trainer is lost in an update, add its groups and those that wait for it to `kept`."""
    try:
        yield
    except TrainerLostError:
        if kept is not None:
            kept += [*groups, *buffer.finished()]
        raise


def slots(config: GRPOConfig) -> int:
    """Groups that may be under way at a time; see `group_buffer` for why so many."""
    return (config.max_staleness + 1) * config.groups_per_step - config.look_ahead + 1


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
