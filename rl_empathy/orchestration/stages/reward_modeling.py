"""Stage reward_modeling: the loop of `engines/reward_training.py` on Ray Train, with triplets from the run's rows."""

import dataclasses
import logging
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rl_empathy.config.changes import require_steps_to_come
from rl_empathy.config.loading import absolute
from rl_empathy.config.sections import DeadlinesConfig, RewardModelingConfig, StageWorkerConfig
from rl_empathy.data.loading import DataSet
from rl_empathy.data.triplets import TripletSource, calibration_split, good_references
from rl_empathy.engines.checkpoints import BEST, LATEST, latest_checkpoint
from rl_empathy.engines.echo_earnings import Earnings, Probe, earnings_lines, paying_echoes
from rl_empathy.engines.embedding import (
    DESCRIPTION,
    Description,
    RewardModel,
    SentenceEncoder,
    read_description,
    resolve_encoder,
)
from rl_empathy.engines.encoder_training import EncoderTraining
from rl_empathy.engines.ranks import first_rank_first
from rl_empathy.engines.reward_training import RewardTraining, copied_limit
from rl_empathy.engines.shards import ZeroStage
from rl_empathy.errors import RoleDiedError, Stopped, TrainingError
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.ray_train import StageWorker, TrainJob, fit, raise_out_of_memory
from rl_empathy.orchestration.stages.artifacts import Artifacts, Made
from rl_empathy.orchestration.stop import on_a_thread

STAGE = "reward_modeling"
SMALLEST_CUT_SAID = 0.01
"""A smaller share of texts that are too long for the reward model is not worth a line."""
NUM_PROBES = 100
"""Held-out prompts, at most, of the table of what echoes earn."""
MODEL_FOLDER, ENCODER_FOLDER = "model", "encoder"

log = logging.getLogger(__name__)


async def run(context: RunContext, artifacts: Artifacts) -> Made:
    """Train the reward model, and say what echoes would earn under it; see `run_reward_modeling`."""
    run_file = context.run_file
    config = run_file.reward_modeling
    context.progress.stage_started(STAGE, num_steps=config.num_steps)
    context.progress.message(f"starting {run_file.cluster.stage_worker.ranks} stage worker(s)")
    facts = await on_a_thread(
        lambda: run_reward_modeling(
            config,
            data=context.data,
            language=run_file.data.language,
            seed=run_file.run.seed,
            folder=context.directory.stage(STAGE),
            log=context.log,
            worker=run_file.cluster.stage_worker,
            deadlines=run_file.cluster.deadlines,
            should_stop=lambda: context.stop.is_set,
            lost=partial(context.budget.spend, STAGE),
        )
    )
    summary = "calibration: triplet accuracy {triplet_accuracy:.3f}, ROC-AUC {roc_auc:.3f}, threshold {threshold:.3f}"
    context.progress.stage_finished(STAGE, summary.format(**facts))
    for line in said_of(facts):
        context.progress.message(line)
    return Made(model=context.directory.stage(STAGE) / MODEL_FOLDER, facts=facts)


def said_of(facts: Mapping[str, Any]) -> list[str]:
    """What the user is told of a reward model: what echoes would earn, and how much it does not read."""
    lines = list(facts["echoes"])
    if facts["cut_fraction"] >= SMALLEST_CUT_SAID:
        lines.append(
            "reward_modeling: {cut_fraction:.0%} of posts and references are longer than the {max_tokens} tokens "
            "that the reward model reads (reward_modeling.max_tokens)".format(**facts)
        )
    return lines


def run_reward_modeling(
    config: RewardModelingConfig,
    *,
    data: DataSet,
    language: str,
    seed: int,
    folder: Path,
    log: MetricsLog,
    worker: StageWorkerConfig,
    deadlines: DeadlinesConfig | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    lost: Callable[[RoleDiedError], None] = raise_out_of_memory,
) -> dict[str, Any]:
    """Train the reward model, or go on where an earlier attempt ended. Blocks; Ray has to be connected.

    A model that was trained with other settings is thrown away; what only says when to measure or to go on may change.

    Args:
        data: Train and held-out rows; those without a reference are passed over.
        language: en or zh.
        seed: Seed of triplets and new weights.
        folder: Folder of the stage, readable by its owner only, shared by the nodes; gets step_*/, model/, worker.log.
        log: Gets a line a step.
        deadlines: start_s until the first report, update_s between reports.
        should_stop: Looked at all the time; when it says so, a checkpoint is written.
        lost: As in `ray_train.fit`.

    Returns:
        kind, threshold, num_steps, max_tokens, cut_fraction, the metrics
        without their area, and `echoes`: the lines of the table of what echoes earn.

    Raises:
        RunDirectoryError: It has trained for more steps than the run file says.
        Stopped: It was asked to; the checkpoint is written.
        RoleTimeoutError: The worker did not report in time.
        RoleDiedError: The worker died twice, or ran out of memory.
        TrainingError: An echo earns as much as the references; see `reward_modeling.accept_echo`.
        RlEmpathyError: What our own code raised in the worker.
    """
    _drop_other_settings(folder, config)
    if not _is_finished(folder, config):
        checkpoint = latest_checkpoint(folder)
        require_steps_to_come(STAGE, checkpoint.step if checkpoint else 0, config.num_steps)
        log.cut_back(STAGE, checkpoint.step if checkpoint else -1)
        settings = {"config": config, "language": language, "seed": seed, "folder": folder}
        job = _job(settings, data, worker)
        fit(lambda: job, log, deadlines or DeadlinesConfig(), should_stop, lost)
    return _facts(_trained_description(folder, config))


def _job(settings: Mapping[str, Any], data: DataSet, worker: StageWorkerConfig) -> TrainJob:
    encoder = settings["config"].encoder
    return TrainJob(
        stage=STAGE,
        loop=_loop,
        settings={
            **settings,
            "encoder": encoder if encoder == "auto" else absolute(encoder),
            "zero_stage": worker.zero_stage,
        },
        data=data,
        folder=settings["folder"],
        worker=worker,
    )


def _trained_description(folder: Path, config: RewardModelingConfig) -> Description:
    """The description of the reward model that the training wrote.

    Raises:
        Stopped: The training has not finished.
        TrainingError: An echo earns as much as the references, and the run file does not accept that.
    """
    if not _is_finished(folder, config):
        raise Stopped(f"{STAGE} was asked to stop and wrote a checkpoint; the same command goes on")
    description = read_description(folder / MODEL_FOLDER)
    if not config.accept_echo:
        _refuse_echoes(description)
    return description


def _refuse_echoes(description: Description) -> None:
    table = _table(description)
    if paying := paying_echoes(table):
        lines = "\n".join(earnings_lines(table))
        raise TrainingError(
            f"reward_modeling: {', '.join(paying)} would earn at least as much as the references in the median, so a "
            f"policy would learn to echo\n{lines}\n"
            "train for more reward_modeling.num_steps, raise the share of these kinds in reward_modeling.negatives, or "
            "take another reward_modeling.encoder (with --allow-config-change the stage begins anew); or set "
            "reward_modeling.accept_echo: true to go on with this reward model"
        )


def _loop(settings: Mapping[str, Any], data: DataSet) -> None:
    """Runs in each worker."""
    config, language, folder = settings["config"], settings["language"], settings["folder"]
    worker = StageWorker(folder)
    found = config.model_copy(update={"encoder": settings["encoder"]})
    training = prepared(
        found, data, language, seed=settings["seed"], folder=folder, zero_stage=settings["zero_stage"]
    )
    encoder = training.engine.encoder
    cut = encoder.cut_fraction(_texts(data), max_tokens=config.max_tokens)
    if checkpoint := training.engine.newest_checkpoint(folder):
        training.restore(checkpoint)
        log.info("going on after step %d", training.step)
    if training.run(worker.report, folder=folder, should_stop=worker.should_stop):
        description = Description(
            kind=config.kind,
            threshold=training.evaluation["reward_model/threshold"],
            copied_limit=training.copied_limit,
            max_tokens=config.max_tokens,
            cut_fraction=cut,
            loss=config.loss,
            language=language,
            num_steps=config.num_steps,
            metrics=training.evaluation,
            echoes={kind: dataclasses.asdict(earned) for kind, earned in training.earnings.items()},
            settings=_settings(config),
        )
        weights = training.engine.weights()
        if training.engine.rank == 0:
            RewardModel(encoder, description).save(folder / MODEL_FOLDER, weights)


def prepared(
    config: RewardModelingConfig,
    data: DataSet,
    language: str,
    *,
    seed: int,
    folder: Path,
    zero_stage: ZeroStage = 0,
) -> RewardTraining:
    """The training of a stage before its first step.

    Args:
        config: Section reward_modeling.
        data: Train and held-out rows.
        language: en or zh.
        seed: Seed of triplets and new weights.
        folder: Gets an encoder that is made on the spot.
        zero_stage: What the ranks shard.
    """
    with first_rank_first():
        path = resolve_encoder(
            config.encoder, language=language, texts=_texts(data), seed=seed, folder=folder / ENCODER_FOLDER
        )
    log.info("encoder %s", path)
    rows, calibration_rows = calibration_split(data.train, config.calibration_fraction, seed=seed)
    log.info("%d prompts to train on, %d to calibrate on", len(rows), len(calibration_rows))
    train, calibration = (TripletSource(part, config.negatives) for part in (rows, calibration_rows))
    probes = TripletSource(data.held_out, config.negatives).probes(NUM_PROBES, seed=f"{seed}:probes")
    return RewardTraining(
        EncoderTraining(SentenceEncoder.load(path), config, zero_stage=zero_stage),
        config,
        draw=lambda step: train.draw(config.batch_pairs, seed=f"{seed}:{step}"),
        calibration=calibration.draw(config.calibration_triplets, seed=f"{seed}:calibration"),
        probes=[Probe(post=post, references=tuple(refs), echoes=echoes) for post, refs, echoes in probes],
        copied_limit=copied_limit([(row.post, text) for row in rows for text in good_references(row)]),
    )


def _texts(data: DataSet) -> list[str]:
    return [text for row in data.train for text in (row.post, *(r.text for r in row.references))]


def _is_finished(folder: Path, config: RewardModelingConfig) -> bool:
    model = folder / MODEL_FOLDER
    return (model / DESCRIPTION).is_file() and read_description(model).num_steps == config.num_steps


def _drop_other_settings(folder: Path, config: RewardModelingConfig) -> None:
    """Throw a finished model and its checkpoints away where it was trained with other settings."""
    model = folder / MODEL_FOLDER
    if (model / DESCRIPTION).is_file() and read_description(model).settings != _settings(config):
        for path in (model, folder / ENCODER_FOLDER, *folder.glob("step_*")):
            shutil.rmtree(path, ignore_errors=True)
        for pointer in (LATEST, BEST):
            (folder / pointer).unlink(missing_ok=True)


def _settings(config: RewardModelingConfig) -> dict[str, Any]:
    """What makes a reward model another one. More steps go on from the last checkpoint."""
    only_when = {"num_steps", "evaluate_every", "checkpoint_every", "accept_echo"}
    return config.model_dump(mode="json", exclude=only_when)


def _table(description: Description) -> dict[str, Earnings]:
    return {kind: Earnings(**earned) for kind, earned in description.echoes.items()}


def _facts(description: Description) -> dict[str, Any]:
    metrics = {name.rpartition("/")[2]: value for name, value in description.metrics.items()}
    kept = {
        "kind": description.kind,
        "threshold": description.threshold,
        "num_steps": description.num_steps,
        "max_tokens": description.max_tokens,
        "cut_fraction": description.cut_fraction,
        "echoes": earnings_lines(_table(description)),
    }
    return metrics | kept
