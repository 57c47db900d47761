"""A run: the stages of a run file, one after the other, each skipped when it is already finished.

starting model ──> sft ──> reward_modeling ──> grpo ──> evaluate ──> model/
"""

import asyncio
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray

from rl_empathy.config.advice import advice
from rl_empathy.config.model_size import folder_size
from rl_empathy.config.plan import Plan, make_plan
from rl_empathy.config.run_file import RunFile
from rl_empathy.data.loading import DataSet, load_data
from rl_empathy.data.targets import with_targets
from rl_empathy.errors import ConfigError, RlEmpathyError, Stopped
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.observability.progress import Progress
from rl_empathy.observability.run_directory import RunDirectory
from rl_empathy.observability.streams import go_on_unseen
from rl_empathy.orchestration.base_model import base_model
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.evaluated_models import (
    find_models,
    models_of_run,
    reward_model_of,
)
from rl_empathy.orchestration.evaluation import asked_models, run_evaluation
from rl_empathy.orchestration.fleet import TrackerHandle
from rl_empathy.orchestration.grpo_stage import run_grpo_stage
from rl_empathy.orchestration.placement import find_room, join_cluster
from rl_empathy.orchestration.reward_modeling import run_reward_modeling
from rl_empathy.orchestration.sft import run_sft
from rl_empathy.orchestration.stop import end_at_once, on_a_thread

T = TypeVar("T")
SMALLEST_CUT_SAID = 0.01
"""A smaller share of texts that are too long for the reward model is not worth a line."""


def run(run_file: RunFile, *, fresh: bool = False, allow_config_change: bool = False) -> int:
    """Carry out a run file, or go on with what an earlier start left.

    Returns:
        0.

    Raises:
        RlEmpathyError: With the exit code of its class; Stopped (75) when it was asked to stop.
    """
    with _running(run_file, fresh=fresh, allow_config_change=allow_config_change) as context:
        if not context.directory.is_finished:
            for line in advice(run_file):
                context.progress.warning(line)
            plan = make_plan(run_file)
            may_grow = join_cluster(run_file.cluster, plan)
            synced = asyncio.run(_first_error(_carried_out(context, plan, may_grow=may_grow)))
        else:
            table = context.directory.path / "evaluation" / "held_out.txt"
            print(table.read_text(encoding="utf-8") if table.exists() else "", end="")
            synced = ""
        _say_what_is_next(context, synced)
    return 0


async def _carried_out(context: RunContext, plan: Plan, *, may_grow: bool) -> str:
    """The stages, once the cluster has room for them: what `_tracked` returns."""
    await _find_room(context, plan, may_grow=may_grow)
    context.plan = plan
    return await _tracked(context)


async def _find_room(context: RunContext, plan: Plan, *, may_grow: bool) -> None:
    """Wait until the cluster has room; from here on a signal asks the run to stop."""
    tell = context.progress.message
    context.stop.listen(lambda: tell("stopping at the next place where nothing is lost"))
    await context.stop.unless_set(find_room(context.run_file.cluster, plan, may_grow=may_grow, tell=tell))
    if context.stop.is_set:
        raise Stopped("stopped before the cluster had room for the run; the same command goes on")


async def _tracked(context: RunContext) -> str:
    """The stages, seen by the tracker where one is wanted: the directory to sync, or nothing."""
    settings, directory = context.run_file.logging, context.directory
    tracker = None
    if settings.wandb != "disabled":
        config = context.run_file.model_dump(mode="json", by_alias=True)
        name = str(context.run_file.run.name)
        tracker = TrackerHandle.start(
            directory.path, name, settings.wandb_project, settings.wandb, config, context.progress.message
        )
        context.log.add_sink(tracker)
    try:
        await _stages(context)
    finally:
        synced = await tracker.finish() if tracker else ""
    return synced


def _say_what_is_next(context: RunContext, synced: str) -> None:
    where = _as_typed(context.directory.path)
    python = _as_typed(Path(sys.executable))
    go_on_unseen()
    print(f"\nrun {context.run_file.run.name} is finished: {where}")
    print("  model/ the trained model   metrics.jsonl  rollouts/  ledger.jsonl   evaluation/held_out.json")
    if synced:
        print(f"  W&B, when you want it there: wandb sync {_as_typed(Path(synced))}")
    print("next:")
    print(f"  {python} -m rl_empathy.serve {where}")
    print(f"  {python} -m rl_empathy.evaluate {where}")


def _as_typed(path: Path) -> str:
    """A path as one would type it here."""
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


@contextmanager
def _running(
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
            progress.message(f"data: {data_summary(data)}")
            log = MetricsLog(directory.path / "metrics.jsonl", progress)
            yield RunContext(run_file=run_file, directory=directory, data=data, log=log, progress=progress)
    except KeyboardInterrupt:
        end_at_once()
    finally:
        ray.shutdown()
        directory.close()


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
    models, encoder = find_models(paths, run_file, overrides), reward_model_of(paths)
    of_its_own = {"name": _name_of_its_own(Path(run_file.run.directory)), "stages": ("evaluate",)}
    run_file = run_file.model_copy(update={"run": run_file.run.model_copy(update=of_its_own)})
    models = [replace(one, run_file=one.run_file.model_copy(update={"run": run_file.run})) for one in models]
    with _running(run_file) as context:
        asked = asked_models(context, models)  # refused before anything starts
        sizes = [size.parameters for one in models if (size := folder_size(one.folder))]
        plan = make_plan(run_file, parameters=max(sizes, default=None))
        may_grow = join_cluster(run_file.cluster, plan)
        evaluation = partial(run_evaluation, context, asked, encoder, show_all=show_all)
        report = asyncio.run(_first_error(_evaluated(context, plan, evaluation, may_grow=may_grow)))
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
    await _find_room(context, plan, may_grow=may_grow)
    report = await context.stop.unless_set(evaluate())
    if report is None:
        raise Stopped("the evaluation was stopped; the same command begins it anew")
    return report


async def _stages(context: RunContext) -> None:
    run_file, directory = context.run_file, context.directory
    models = {"base": await base_model(context)}
    context.use_tokenizer_of(models["base"])
    reward_model: Path | None = None
    for stage in run_file.run.stages:
        result = directory.stage_result(stage)
        if context.stop.is_set:
            raise Stopped(f"stopped before stage {stage}; the same command goes on")
        if result is None:
            directory.begin_stage(stage)
            result = await _run_stage(context, stage, models, reward_model)
            held = await context.memory.stage_ended(
                context.plan, stage, directory.stage(stage), context.progress.message
            )
            directory.finish_stage(stage, result | {"memory": held})
        else:
            context.progress.message(f"{stage} is finished")
        if stage in ("sft", "grpo"):
            models[stage] = directory.path / result["model"]
        if stage == "reward_modeling":
            reward_model = directory.path / result["model"]
    _release(directory.path, list(models.values())[-1])


async def _run_stage(
    context: RunContext, stage: str, models: dict[str, Path], reward_model: Path | None
) -> dict[str, Any]:
    policy = list(models.values())[-1]
    if stage == "sft":
        made = await run_sft(context, policy)
    elif stage == "reward_modeling":
        return await _reward_modeling(context)
    elif stage == "grpo":
        made = await run_grpo_stage(context, policy, reward_model)
        context.progress.stage_finished("grpo", "")
    else:
        context.log.cut_back("evaluate", -1)
        asked = asked_models(context, models_of_run(context.run_file, models))
        path = await context.stop.unless_set(run_evaluation(context, asked, reward_model))
        if path is None:
            raise Stopped("stopped in stage evaluate, which begins anew; the same command goes on")
        return {"evaluation": str(path.relative_to(context.directory.path))}
    return {"model": str(made.relative_to(context.directory.path))}


async def _reward_modeling(context: RunContext) -> dict[str, Any]:
    run_file = context.run_file
    resources = run_file.cluster.stage_worker
    config = run_file.reward_modeling
    context.progress.stage_started("reward_modeling", num_steps=config.num_steps)
    result = await on_a_thread(
        lambda: run_reward_modeling(
            config,
            data=context.data,
            language=run_file.data.language,
            seed=run_file.run.seed,
            folder=context.directory.stage("reward_modeling"),
            log=context.log,
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
            deadlines=run_file.cluster.deadlines,
            should_stop=lambda: context.stop.is_set,
            lost=partial(context.budget.spend, "reward_modeling"),
        )
    )
    summary = "calibration: triplet accuracy {triplet_accuracy:.3f}, ROC-AUC {roc_auc:.3f}, threshold {threshold:.3f}"
    context.progress.stage_finished("reward_modeling", summary.format(**result))
    for line in result["echoes"]:
        context.progress.message(line)
    if result["cut_fraction"] >= SMALLEST_CUT_SAID:
        context.progress.message(
            "reward_modeling: {cut_fraction:.0%} of posts and references are longer than the {max_tokens} tokens "
            "that the reward model reads (reward_modeling.max_tokens)".format(**result)
        )
    return result


def _release(path: Path, model: Path) -> None:
    """Copy the last policy to `model/`, the folder that is served."""
    released = path / "model"
    temporary, old = path / "model.tmp", path / "model.old"
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(model, temporary)
    if released.exists():
        released.rename(old)  # a server that reads it keeps its files until it ends
    temporary.rename(released)
    shutil.rmtree(old, ignore_errors=True)


async def _first_error(work: Coroutine[Any, Any, T]) -> T:
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


def data_summary(data: DataSet) -> str:
    """What the run reads, in a line."""
    counts = ", ".join(f"{count} {name}" for name, count in data.counts.items() if count)
    return f"{data.source}: {len(data.train)} prompts to train on, {len(data.held_out)} held out ({counts})"
