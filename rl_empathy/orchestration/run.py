"""A run: the stages of a run file, one after the other, each skipped when it is already finished.

starting model ──> sft ──> reward_modeling ──> grpo ──> evaluate ──> model/
"""

import asyncio
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from rl_empathy.config.advice import advice
from rl_empathy.config.plan import Plan, make_plan
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.stage_table import stage_of
from rl_empathy.errors import Stopped
from rl_empathy.observability.curves import curves
from rl_empathy.observability.disk import whole_folder
from rl_empathy.observability.metrics import METRICS
from rl_empathy.observability.streams import go_on_unseen
from rl_empathy.orchestration.base_model import base_model
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.fleet import TrackerHandle
from rl_empathy.orchestration.opening import find_room_for, first_error, opened
from rl_empathy.orchestration.placement import join_cluster
from rl_empathy.orchestration.stages import Artifacts, runner_of
from rl_empathy.rewards.terms import term_remarks

LEFT = ("model", METRICS, "rollouts", "ledger.jsonl", "evaluation/held_out.json")
"""What a run may leave that one looks for first."""


def run(run_file: RunFile, *, fresh: bool = False, allow_config_change: bool = False) -> int:
    """Carry out a run file, or go on with what an earlier start left.

    Returns:
        0.

    Raises:
        RlEmpathyError: With the exit code of its class; Stopped (75) when it was asked to stop.
    """
    with opened(run_file, fresh=fresh, allow_config_change=allow_config_change) as context:
        if not context.directory.is_finished:
            for line in (*advice(run_file), *term_remarks(run_file.rewards)):
                context.progress.warning(line)
            plan = make_plan(run_file)
            may_grow = join_cluster(run_file.cluster, plan)
            synced = asyncio.run(first_error(_carried_out(context, plan, may_grow=may_grow)))
        else:
            table = context.directory.path / "evaluation" / "held_out.txt"
            print(table.read_text(encoding="utf-8") if table.exists() else "", end="")
            synced = ""
        _say_what_is_next(context, synced)
    return 0


async def _carried_out(context: RunContext, plan: Plan, *, may_grow: bool) -> str:
    """The stages, once the cluster has room for them: what `_tracked` returns."""
    await find_room_for(context, plan, may_grow=may_grow)
    context.plan = plan
    return await _tracked(context)


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
    left = [name for name in LEFT if (context.directory.path / name).exists()]
    print(f"  {'   '.join(left)}")
    if synced:
        print(f"  W&B, when you want it there: wandb sync {_as_typed(Path(synced))}")
    print("next:")
    print(f"  {python} -m rl_empathy.serve {where}")
    print(f"  {python} -m rl_empathy.evaluate {where}")


def _as_typed(path: Path) -> str:
    """A path as one would type it here."""
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


async def _stages(context: RunContext) -> None:
    artifacts = Artifacts(policies={"base": await base_model(context)})
    context.use_tokenizer_of(artifacts.policy)
    for name in context.run_file.run.stages:
        if context.stop.is_set:
            raise Stopped(f"stopped before stage {name}; the same command goes on")
        result = context.directory.stage_result(name)
        if result is None:
            result = await _carry_out(context, name, artifacts)
        else:
            context.progress.message(f"{name} is finished")
        if gives := stage_of(context.run_file, name).gives:
            artifacts = artifacts.with_one_more(name, gives, context.directory.path / result["model"])
    _release(context.directory.path, artifacts.policy)


async def _carry_out(context: RunContext, name: str, artifacts: Artifacts) -> dict[str, Any]:
    """One stage, from its first line in the record to its result."""
    directory = context.directory
    directory.begin_stage(name)
    made = await runner_of(name)(context, artifacts)
    trains = stage_of(context.run_file, name).gives
    for line in curves(directory.path / METRICS, name) if trains else ():
        context.progress.message(f"  {line}")
    held = await context.memory.stage_ended(
        context.plan, name, directory.stage(name), context.progress.message
    )
    model = {} if made.model is None else {"model": os.path.relpath(made.model, directory.path)}
    result = {**model, **made.facts, "memory": held}
    directory.finish_stage(name, result)
    return result


def _release(path: Path, model: Path) -> None:
    """Copy the last policy to `model/`, the folder that is served."""
    with whole_folder(path / "model") as released:  # a server that reads it keeps its files until it ends
        shutil.copytree(model, released, dirs_exist_ok=True)
