"""Stage sft: the loop of `engines/sft_training.py` on Ray Train, then schema validity by generation."""

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rl_empathy.config.advice import warm_up_advice
from rl_empathy.config.changes import require_steps_to_come
from rl_empathy.data.prompts import held_out_prompts
from rl_empathy.engines.checkpoints import latest_checkpoint
from rl_empathy.engines.sft_training import fine_tune, step_batches
from rl_empathy.engines.token_table import TokenTable
from rl_empathy.errors import DataError, Stopped
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.fleet.savings import SFT_MICROBATCH
from rl_empathy.orchestration.ray_train import StageWorker, TrainJob, fit
from rl_empathy.orchestration.roles import rollout_workers
from rl_empathy.orchestration.stages.artifacts import Artifacts, Made
from rl_empathy.orchestration.stop import on_a_thread
from rl_empathy.orchestration.tokenizing import fine_tuning_samples
from rl_empathy.orchestration.weight_channels.folder import WeightsInFolder


async def run(context: RunContext, artifacts: Artifacts) -> Made:
    """Fine-tune the last policy on traces and answers.

    Raises:
        DataError: No training row has a reference and a trace.
        RunDirectoryError: It has trained for more steps than the run file says.
        Stopped: It was asked to; the checkpoint is written.
    """
    run_file, folder = context.run_file, context.directory.stage("sft")
    train, held_out = [
        await fine_tuning_samples(context, artifacts.policy, rows)
        for rows in (context.data.train, context.data.held_out)
    ]
    if not len(train):
        raise DataError("stage sft has no row with a reference and a trace; see data.missing_trace")
    batches = step_batches(train.num_tokens, run_file.sft, seed=run_file.run.seed)
    num_steps = len(batches)
    _tell_what_is_trained(context, batches, num_samples=len(train))
    if not len(held_out):
        context.progress.warning("sft: no held-out row has a target, so there is no sft/held_out_loss")
    context.progress.stage_started("sft", num_steps=num_steps)
    context.progress.message(f"starting {run_file.cluster.stage_worker.ranks} stage worker(s)")
    checkpoint = latest_checkpoint(folder)
    require_steps_to_come("sft", checkpoint.step if checkpoint else 0, num_steps)
    context.log.cut_back("sft", checkpoint.step if checkpoint else -1)
    shutil.rmtree(folder / "model", ignore_errors=True)  # an export of another configuration, if any
    settings = {"model": str(artifacts.policy), "run_file": run_file, "folder": folder}
    await on_a_thread(
        lambda: fit(
            lambda: _job(context, settings, (train, held_out)),
            context.log,
            run_file.cluster.deadlines,
            lambda: context.stop.is_set,
            partial(context.budget.spend, "sft"),
        )
    )
    tuned = folder / "model"
    if not tuned.exists():
        raise Stopped("sft was asked to stop and wrote a checkpoint; the same command goes on")
    summary = await _validity_summary(context, tuned, num_steps) if run_file.sft.validity_prompts else ""
    context.progress.stage_finished("sft", summary)
    return Made(model=tuned)


def _tell_what_is_trained(context: RunContext, batches: Sequence[Sequence[int]], *, num_samples: int) -> None:
    """Tell the user how many steps there are, and how many of the rows they train."""
    config, num_rows = context.run_file.sft, len(context.data.train)
    used = len({index for batch in batches for index in batch})
    context.progress.message(
        f"sft: {len(batches)} steps train {used} of {num_rows} rows; "
        f"{num_rows - num_samples} have no reference, no trace or too long a prompt"
    )
    if not config.num_steps and (line := warm_up_advice("sft", config.optimizer, len(batches))):
        context.progress.warning(line)  # with num_epochs the data tells the number of steps


def _job(context: RunContext, settings: Mapping[str, Any], data: tuple[TokenTable, TokenTable]) -> TrainJob:
    return TrainJob(
        stage="sft",
        loop=_loop,
        settings={**settings, "microbatch_tokens": context.savings[SFT_MICROBATCH]},
        data=data,
        folder=settings["folder"],
        worker=context.run_file.cluster.stage_worker,
        tell=context.progress.warning,
    )


def _loop(settings: Mapping[str, Any], data: tuple[TokenTable, TokenTable]) -> None:
    """Runs in each worker."""
    folder, run_file = settings["folder"], settings["run_file"]
    worker = StageWorker(folder)
    fine_tune(
        settings["model"],
        *data,
        run_file.sft.model_copy(update={"microbatch_tokens": settings["microbatch_tokens"]}),
        dtype=run_file.model.dtype,
        seed=run_file.run.seed,
        folder=folder,
        report=worker.report,
        tell=worker.tell,
        should_stop=worker.should_stop,
        zero_stage=run_file.cluster.stage_worker.zero_stage,
    )


async def _validity_summary(context: RunContext, tuned: Path, num_steps: int) -> str:
    """Measure and log how many replies keep the form of the schema; warn when none does."""
    valid, asked = await _validity(context, tuned)
    context.log.write("sft", num_steps, {"schema/valid_fraction": valid})
    if not valid:
        context.progress.warning(
            "sft: no reply keeps the form, and one that does not may have no answer: terms that read answers would "
            "give 0. Train for longer, or on rows that have every span (see data.missing_trace)"
        )
    return f"{valid:.0%} of the replies to {asked} held-out prompts keep the form"


async def _validity(context: RunContext, model: Path) -> tuple[float, int]:
    """The share of replies to held-out prompts that keep the form of the schema and end, and the number of prompts."""
    run_file = context.run_file
    workers = await rollout_workers(context, model)
    await workers.load(WeightsInFolder(model, context.next_version()))
    prompts = held_out_prompts(context.prompts(context.data.held_out)[: run_file.sft.validity_prompts])
    groups = await asyncio.gather(
        *(
            workers.sample(prompt, sampling=run_file.evaluate.sampling, group_size=1, cohort=prompts)
            for prompt in prompts
        )
    )
    completions = [c for group in groups for c in (await workers.payload(group)).completions]
    valid = sum(
        context.schema.parse(c.text, strict=True).valid and c.finish_reason == "stop" for c in completions
    )
    return valid / max(1, len(completions)), len(prompts)
