"""A run: the stages of a run file, one after the other, each skipped when it is already finished.

starting model ──> sft ──> reward_modeling ──> grpo ──> evaluate ──> model/
"""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from rl_empathy.config.plan import make_plan
from rl_empathy.config.run_file import RunFile
from rl_empathy.data.loading import load_data
from rl_empathy.engines.model_sources import starting_model
from rl_empathy.errors import ConfigError, RlEmpathyError
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.observability.progress import Progress
from rl_empathy.observability.run_directory import RunDirectory
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.evaluation import run_evaluation
from rl_empathy.orchestration.fleet import Resources, run_task
from rl_empathy.orchestration.grpo_stage import run_grpo_stage
from rl_empathy.orchestration.placement import join_cluster
from rl_empathy.orchestration.reward_modeling import run_reward_modeling
from rl_empathy.orchestration.sft import run_sft
from rl_empathy.types import conversation_text

BASE_MODEL_S = 3600
"""Deadline for making or converting the starting model, seconds."""


def run(run_file: RunFile, *, fresh: bool = False, allow_config_change: bool = False) -> int:
    """Carry out a run file, or go on with what an earlier start left.

    Returns:
        0.

    Raises:
        RlEmpathyError: With the exit code of its class; Stopped (75) when it was asked to stop.
    """
    plan = make_plan(run_file)
    data = load_data(run_file.data, seed=run_file.run.seed)
    directory = RunDirectory.open(run_file, fresh=fresh, allow_config_change=allow_config_change)
    try:
        with Progress() as progress:
            if directory.resumed:
                for line in directory.summary():
                    progress.message(line)
            join_cluster(run_file.cluster, plan)
            context = RunContext(
                run_file=run_file,
                directory=directory,
                data=data,
                log=MetricsLog(directory.path / "metrics.jsonl", progress),
                progress=progress,
            )
            _raise_first(lambda: asyncio.run(_stages(context)))
    finally:
        ray.shutdown()
        directory.close()
    return 0


async def _stages(context: RunContext) -> None:
    context.stop.listen()
    run_file, directory = context.run_file, context.directory
    models = {"base": await _base_model(context)}
    context.use_tokenizer_of(models["base"])
    reward_model: Path | None = None
    for stage in run_file.run.stages:
        result = directory.stage_result(stage)
        if result is None:
            result = await _run_stage(context, stage, models, reward_model)
            directory.finish_stage(stage, result)
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
    wants_encoder = any(term.function == "answer" for term in context.run_file.grpo.rewards)
    if stage == "grpo" and wants_encoder and reward_model is None:
        raise ConfigError(
            "grpo.rewards has the term answer, but no stage reward_modeling ran before grpo; add it to run.stages, "
            "or set grpo.rewards: [{function: format}]"
        )
    policy = list(models.values())[-1]
    if stage == "sft":
        made = await run_sft(context, policy)
    elif stage == "reward_modeling":
        return await _reward_modeling(context)
    elif stage == "grpo":
        made = await run_grpo_stage(context, policy, reward_model)
    else:
        path = await run_evaluation(context, models, reward_model)
        return {"evaluation": str(path.relative_to(context.directory.path))}
    return {"model": str(made.relative_to(context.directory.path))}


async def _base_model(context: RunContext) -> Path:
    run_file = context.run_file
    rows = context.data.train
    texts = [conversation_text(row.messages) for row in rows]
    texts += [reference.text for row in rows for reference in row.references]
    texts += [text for row in rows if row.trace for text in row.trace.spans.values()]
    settings = run_file.cluster.policy_trainer
    context.progress.message("preparing the starting model")
    return await run_task(  # type: ignore[no-any-return]
        _make_base_model,
        run_file,
        context.directory.path / "base",
        texts if run_file.model.from_scratch else [],
        context.log.path.resolve(),
        resources=Resources(num_cpus=settings.num_cpus, num_gpus=settings.num_gpus),
        seconds=BASE_MODEL_S,
        doing="prepare the starting model",
    )


def _make_base_model(run_file: RunFile, folder: Path, texts: list[str], metrics: Path) -> Path:
    """Runs in a process of the cluster."""
    log = MetricsLog(metrics)
    schema = run_file.schema_declaration
    return starting_model(
        run_file.model,
        folder.resolve(),
        texts=texts,
        delimiters=schema.delimiters,
        instruction=schema.instruction(run_file.data.language),
        seed=run_file.run.seed,
        progress=lambda step, values: log.write("base", step, values),
    )


async def _reward_modeling(context: RunContext) -> dict[str, Any]:
    run_file = context.run_file
    resources = run_file.cluster.policy_trainer
    config = run_file.reward_modeling
    context.progress.stage_started("reward_modeling", num_steps=config.num_steps)
    result = await run_reward_modeling(
        config,
        data=context.data,
        language=run_file.data.language,
        seed=run_file.run.seed,
        folder=context.directory.stage("reward_modeling"),
        log=context.log,
        stop=context.stop,
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
    )
    context.progress.stage_finished("reward_modeling", str(result))
    return result


def _release(path: Path, model: Path) -> None:
    """Copy the last policy to `model/`, the folder that is served."""
    released = path / "model"
    temporary = path / "model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(model, temporary)
    if released.exists():
        shutil.rmtree(released)
    temporary.rename(released)


def _raise_first(work: Callable[[], None]) -> None:
    """Run, and of a group of errors raise the first of ours: the others were caused by it."""
    try:
        work()
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        raise next((error for error in leaves if isinstance(error, RlEmpathyError)), leaves[0]) from None


def _leaves(group: BaseException) -> list[BaseException]:
    if isinstance(group, BaseExceptionGroup):
        return [leaf for error in group.exceptions for leaf in _leaves(error)]
    return [group]
