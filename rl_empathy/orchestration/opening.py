"""What comes before any stage, in a run and in an evaluation by hand: the data, the run directory, the room."""

from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ray

from rl_empathy.config.plan import Plan
from rl_empathy.config.run_file import RunFile
from rl_empathy.data.loading import load_data
from rl_empathy.data.targets import with_targets
from rl_empathy.errors import RlEmpathyError, Stopped
from rl_empathy.observability.metrics import METRICS, MetricsLog
from rl_empathy.observability.progress import Progress
from rl_empathy.observability.run_directory import RunDirectory
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.placement import find_room
from rl_empathy.orchestration.stop import end_at_once

T = TypeVar("T")


@contextmanager
def opened(
    run_file: RunFile, *, fresh: bool = False, allow_config_change: bool = False
) -> Iterator[RunContext]:
    """The data and the run directory for as long as the run lasts; the cluster, once it was joined, is left."""
    data = with_targets(load_data(run_file.data, seed=run_file.run.seed), run_file)
    directory = RunDirectory.open(run_file, fresh=fresh, allow_config_change=allow_config_change)
    try:
        with Progress() as progress:
            for line in directory.summary() if directory.resumed else ():
                progress.message(line)
            for line in directory.told:
                progress.warning(line)
            directory.require_same_data(data.sha256, data.source, allow_change=allow_config_change)
            held_out = [row.id for row in data.held_out]
            directory.require_same_split(held_out, data.links, allow_change=allow_config_change)
            progress.message(f"data: {data.summary}")
            log = MetricsLog(directory.path / METRICS, progress)
            yield RunContext(run_file=run_file, directory=directory, data=data, log=log, progress=progress)
    except KeyboardInterrupt:
        end_at_once()
    finally:
        ray.shutdown()
        directory.close()


async def find_room_for(context: RunContext, plan: Plan, *, may_grow: bool) -> None:
    """Wait until the cluster has room; from here on a signal asks the run to stop."""
    tell = context.progress.message
    context.stop.listen(lambda: tell("stopping at the next place where nothing is lost"))
    await context.stop.unless_set(find_room(context.run_file.cluster, plan, may_grow=may_grow, tell=tell))
    if context.stop.is_set:
        raise Stopped("stopped before the cluster had room for the run; the same command goes on")


async def first_error(work: Coroutine[Any, Any, T]) -> T:
    """Raise the first error of ours of a group of errors: the others were caused by it."""
    try:
        return await work
    except BaseExceptionGroup as group:
        leaves = _leaves(group)
        raise next((error for error in leaves if isinstance(error, RlEmpathyError)), leaves[0]) from None


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
