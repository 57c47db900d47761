"""Asynchronous GRPO.

prompts ──> rollout workers ──> reward model ──> group buffer ──> policy trainer
                  ^             reference model                        │
                  └────────────── weights of policy version n ─────────┘
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rl_empathy.config.changes import require_steps_to_come
from rl_empathy.config.sections import GRPOConfig
from rl_empathy.data.prompts import START, PromptStream
from rl_empathy.errors import OutOfMemoryError, Stopped, TrainerLostError
from rl_empathy.observability.ledger import Ledger
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.fleet import Fleet, GroupHandle
from rl_empathy.orchestration.group_buffer import GroupBuffer
from rl_empathy.orchestration.rollouts import Rollouts, still_valid
from rl_empathy.orchestration.steps import Checkpoints, Steps
from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.orchestration.weight_sync import Publisher
from rl_empathy.types import Occurrence, Resumed, RolloutGroup


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
    loop = partial(run_grpo, config, fleet, prompts, ledger, log, stop=stop, show=show, in_rounds=in_rounds)
    kept: list[GroupHandle] = []
    while True:
        try:
            resumed = await resume_trainer(fleet, config.num_steps, tell=tell)
            step = fleet.trainer.version.number
            saved = take_up(resumed, step, prompts, ledger, log, tell=tell)
            finished = [*map(fleet.adopt, saved), *still_valid(kept, saved, step, prompts, ledger, tell)]
            kept.clear()
            await loop(finished=finished, kept=kept)
            await fleet.trainer.export(export_to)
            return
        except* TrainerLostError as lost:
            error = lost.exceptions[0]
            if in_rounds or not isinstance(error.__cause__, OutOfMemoryError):
                kept.clear()  # its node may be gone, and what was on it
        await stop.unless_set(fleet.trainer.rebuild(error))
        if stop.is_set:
            raise Stopped("stopped while the policy trainer was started anew; the same command goes on")


async def resume_trainer(fleet: Fleet, num_steps: int, *, tell: Callable[[str], None]) -> Resumed:
    """Have the trainer go on from its newest checkpoint, and tell the user what it found on the way.

    Raises:
        RunDirectoryError: The checkpoint is of a later step than the last one wanted.
    """
    resumed = await fleet.trainer.resume()
    for note in resumed.notes:
        tell(note)
    step = fleet.trainer.version.number
    require_steps_to_come("grpo", step, num_steps)
    for problem in resumed.damaged:
        tell(f"{problem}: going on from step {step} instead")
    return resumed


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
    async with asyncio.TaskGroup() as tasks:
        publisher = Publisher(fleet.trainer, fleet.rollout_workers, tasks, stop)
        await publisher.publish()
        await publisher.ended()  # a worker serves only after a finished refit
        rollouts = Rollouts(config, fleet, prompts, ledger, buffer, tasks)
        rollouts.adopt(finished, version=fleet.trainer.version.number)
        rollouts.start(show)
        checkpoints = Checkpoints(fleet, prompts, ledger, buffer)
        steps = Steps(config, fleet, ledger, log, buffer, publisher, checkpoints)
        for step in range(fleet.trainer.version.number + 1, config.num_steps + 1):
            groups = await steps.take(step, stop, in_rounds=in_rounds)
            updated = await steps.update(step, groups, kept)
            await steps.publish(groups)
            steps.record(step, groups, updated)
            await steps.checkpoint(step, tasks)
        rollouts.stop()


def slots(config: GRPOConfig) -> int:
    """Groups that may be under way at a time; see `group_buffer` for why so many."""
    return (config.max_staleness + 1) * config.groups_per_step - config.look_ahead + 1
