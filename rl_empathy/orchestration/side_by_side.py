"""An evaluation by hand: any models side by side, in a run directory of its own."""

import asyncio
import shutil
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rl_empathy.config.model_size import folder_size
from rl_empathy.config.plan import Plan, make_plan
from rl_empathy.config.run_file import RunFile
from rl_empathy.errors import ConfigError, Stopped
from rl_empathy.observability.streams import go_on_unseen
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.evaluated_models import find_models, reward_models_of
from rl_empathy.orchestration.evaluation import asked_models, run_evaluation
from rl_empathy.orchestration.opening import find_room_for, first_error, opened
from rl_empathy.orchestration.placement import join_cluster


def evaluate_command(
    paths: Sequence[Path],
    run_file: RunFile,
    output: Path | None,
    *,
    overrides: Sequence[str] = (),
    show_all: bool = False,
) -> int:
    """Evaluate runs and models side by side, in a run directory of its own.

    Args:
        paths: Run directories (each gives its base, sft and grpo) and model folders, of any architectures.
        run_file: Says on which prompts, and how.
        output: A second place for the JSON.
        overrides: The settings of the command line, which hold for every model.
        show_all: Print every measure instead of the leading ones.

    Returns:
        0.
    """
    if output and not output.absolute().parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.absolute().parent}")
    models, reward_models = find_models(paths, run_file, overrides), reward_models_of(paths)
    of_its_own = {"name": _name_of_its_own(Path(run_file.run.directory)), "stages": ("evaluate",)}
    run_file = run_file.model_copy(update={"run": run_file.run.model_copy(update=of_its_own)})
    models = [replace(one, run_file=one.run_file.model_copy(update={"run": run_file.run})) for one in models]
    with opened(run_file) as context:
        asked = asked_models(context, models)  # refused before anything starts
        sizes = [size.parameters for one in models if (size := folder_size(one.folder))]
        plan = make_plan(run_file, parameters=max(sizes, default=None))
        may_grow = join_cluster(run_file.cluster, plan)
        evaluation = partial(run_evaluation, context, asked, reward_models, show_all=show_all)
        report = asyncio.run(first_error(_evaluated(context, plan, evaluation, may_grow=may_grow)))
    if output:
        try:
            shutil.copyfile(report, output)
        except OSError as error:
            raise ConfigError(f"--output {output}: {error}; the evaluation is in {report}") from error
    go_on_unseen()
    print(f"evaluation: {output or report}")
    return 0


def _name_of_its_own(runs: Path) -> str:
    """A run name for an evaluation; two may begin in one second."""
    name = f"evaluation-{time.strftime('%Y%m%dT%H%M%S')}"
    names = (name + suffix for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(name for name in names if not (runs.expanduser() / name).exists())


async def _evaluated(
    context: RunContext, plan: Plan, evaluate: Callable[[], Coroutine[Any, Any, Path]], *, may_grow: bool
) -> Path:
    """The evaluation's report, once the cluster has room for it."""
    await find_room_for(context, plan, may_grow=may_grow)
    report = await context.stop.unless_set(evaluate())
    if report is None:
        raise Stopped("the evaluation was stopped; the same command begins it anew")
    return report
