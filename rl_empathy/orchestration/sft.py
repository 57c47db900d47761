"""Stage sft: the loop of `engines/sft_training.py` on Ray Train, then schema validity by generation."""

import asyncio
from pathlib import Path
from typing import Any

from rl_empathy.config.sections import SFTConfig
from rl_empathy.data.conversations import completion_token_ids, target_text
from rl_empathy.engines.shared_prompt import Sample
from rl_empathy.errors import DataError
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.ray_train import fit
from rl_empathy.types import Occurrence, Prompt, Row


async def run_sft(context: RunContext, model: Path) -> Path:
    """Fine-tune a model on traces and answers.

    Args:
        context: Of the run.
        model: Folder of the starting model.

    Returns:
        Folder of the fine-tuned model.

    Raises:
        DataError: No training row has a reference and a trace.
    """
    run_file, folder = context.run_file, context.directory.stage("sft")
    train, held_out = _samples(context, context.data.train), _samples(context, context.data.held_out)
    if not train:
        raise DataError("stage sft has no row with a reference and a trace; see data.missing_trace")
    context.progress.stage_started("sft", num_steps=None)
    settings = {
        "model_path": str(model),
        "train": [(list(s.prompt), list(s.completions[0])) for s in train],
        "held_out": [(list(s.prompt), list(s.completions[0])) for s in held_out],
        "config": run_file.sft.model_dump(),
        "dtype": run_file.model.dtype,
        "seed": run_file.run.seed,
        "folder": str(folder),
        "metrics": str(context.log.path.resolve()),
    }
    resources = run_file.cluster.stage_worker
    await fit(
        _loop,
        settings,
        folder=folder,
        log=context.log,
        stop=context.stop,
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
    )
    tuned = folder / "model"
    if run_file.sft.validity_prompts:
        valid = await _validity(context, tuned)
        context.progress.message(f"sft: strict schema validity {valid:.2f} on held-out prompts")
        context.log.write("sft", _last_step(folder), {"schema/valid_fraction": valid})
    return tuned


def _loop(settings: dict[str, Any]) -> None:
    """Runs in the training process."""
    from rl_empathy.engines.checkpoints import latest_checkpoint
    from rl_empathy.engines.sft_training import SFTData, fine_tune

    folder = Path(settings["folder"])
    log = MetricsLog(Path(settings["metrics"]))
    checkpoint = latest_checkpoint(folder)
    log.cut_back("sft", checkpoint.step if checkpoint else -1)
    data = {
        side: [Sample(prompt, [completion]) for prompt, completion in settings[side]]
        for side in ("train", "held_out")
    }
    fine_tune(
        settings["model_path"],
        SFTData(**data),
        SFTConfig.model_validate(settings["config"]),
        dtype=settings["dtype"],
        seed=settings["seed"],
        folder=folder,
        report=lambda step, metrics: log.write("sft", step, metrics),
    )


def _samples(context: RunContext, rows: tuple[Row, ...]) -> list[Sample]:
    data = context.run_file.data
    samples = []
    for row, prompt in context.prompts(rows):
        text = target_text(row, context.schema, language=data.language, missing_trace=data.missing_trace)
        if text is not None:
            samples.append(Sample(prompt, [completion_token_ids(context.tokenizer, text)]))
    return samples


async def _validity(context: RunContext, model: Path) -> float:
    run_file = context.run_file
    workers = await context.rollout_workers(model)
    await workers.load_model(model, context.next_version())
    prompts = context.prompts(context.data.held_out)[: run_file.sft.validity_prompts]
    groups = await asyncio.gather(
        *(
            workers.sample(
                Prompt(occurrence=Occurrence(-1, index), row=row, token_ids=tuple(ids)),
                sampling=run_file.evaluate.sampling,
                group_size=1,
            )
            for index, (row, ids) in enumerate(prompts)
        )
    )
    completions = [c for group in groups for c in (await workers.payload(group)).completions]
    return sum(
        context.schema.parse(c.text, strict=True).valid and c.finish_reason == "stop" for c in completions
    ) / max(1, len(completions))


def _last_step(folder: Path) -> int:
    from rl_empathy.engines.checkpoints import latest_checkpoint

    checkpoint = latest_checkpoint(folder)
    return checkpoint.step if checkpoint else 0
