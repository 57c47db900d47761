"""Before the stages: the starting model, made, converted or found, in a process of the cluster."""

import asyncio
import importlib
from pathlib import Path

from rl_empathy.config.loading import absolute
from rl_empathy.config.run_file import RunFile
from rl_empathy.engines.chat_files import chat_notes
from rl_empathy.engines.chat_templates import TEMPLATES
from rl_empathy.engines.model_sources import starting_model
from rl_empathy.errors import Stopped
from rl_empathy.observability.private_files import keep_files_private
from rl_empathy.observability.reports import Follower, append_report
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.fleet.calls import Resources, run_task
from rl_empathy.types import conversation_text

TOKENIZERS = "transformers.models.auto.tokenization_auto"
LOOK_S = 0.2


async def base_model(context: RunContext) -> Path:
    """The folder of the model that the run starts from.

    Raises:
        Stopped: It was asked to; a model that was being made is begun anew.
    """
    run_file, directory = context.run_file, context.directory
    folder = directory.path / "base"
    is_made = (folder / "config.json").is_file()
    scratch = None if is_made else run_file.model.from_scratch
    if scratch and scratch.num_steps:
        context.progress.stage_started("base", num_steps=scratch.num_steps)
    else:
        context.progress.message("preparing the starting model")
    reports = directory.path / "base.reports.jsonl"
    if not is_made:
        reports.unlink(missing_ok=True)
    if scratch or reports.exists():  # those of a model that was finished when nobody listened are read now
        context.log.cut_back("base", -1)
    making = asyncio.create_task(_make(context, folder, _texts(context) if scratch else [], reports))
    # The tokenizer is wanted here next; importing its module takes seconds, which pass beside the task's.
    importing = asyncio.create_task(asyncio.to_thread(importlib.import_module, TOKENIZERS))
    follower = Follower(reports)
    perplexity = None
    while not making.done():
        await asyncio.wait([making], timeout=LOOK_S)
        for report in follower.new():
            context.log.write("base", report.pop("step"), report)
            perplexity = report.get("base/held_out_perplexity", perplexity)
        if context.stop.is_set and not making.done():
            making.cancel()
            raise Stopped("stopped while the starting model was made; the same command begins it anew")
    path = await making
    await importing
    reports.unlink(missing_ok=True)
    for note in chat_notes(path):
        context.progress.message(note)
    if perplexity is not None:
        context.progress.stage_finished("base", f"held-out perplexity {perplexity:.1f} per token")
    return path


async def _make(context: RunContext, folder: Path, texts: list[str], reports: Path) -> Path:
    settings = context.run_file.cluster.stage_worker
    return await run_task(  # type: ignore[no-any-return]
        _starting_model,
        _with_absolute_paths(context.run_file),
        folder,
        texts,
        reports,
        resources=Resources(num_cpus=settings.num_cpus, num_gpus=settings.num_gpus),
        seconds=context.run_file.cluster.deadlines.base_model_s,
        doing="prepare the starting model",
    )


def _with_absolute_paths(run_file: RunFile) -> RunFile:
    model = run_file.model
    is_file = model.chat_template is not None and model.chat_template not in TEMPLATES
    found = {
        "path": model.path and absolute(model.path),
        "chat_template": absolute(str(model.chat_template)) if is_file else model.chat_template,
    }
    return run_file.model_copy(update={"model": model.model_copy(update=found)})


def _starting_model(run_file: RunFile, folder: Path, texts: list[str], reports: Path) -> Path:
    """Runs in a process of the cluster."""
    keep_files_private()
    schema = run_file.schema_declaration
    return starting_model(
        run_file.model,
        folder,
        data=run_file.data,
        texts=texts,
        delimiters=schema.delimiters,
        instruction=schema.instruction(run_file.data.language),
        seed=run_file.run.seed,
        progress=lambda step, values: append_report(reports, step, values),
    )


def _texts(context: RunContext) -> list[str]:
    """The training side's text; of the held-out posts a model made on the spot sees nothing."""
    rows = context.data.train
    texts = [conversation_text(row.messages) for row in rows]
    texts += [reference.text for row in rows for reference in row.references]
    return texts + [text for row in rows if row.trace for text in row.trace.spans.values()]
