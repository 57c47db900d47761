"""Stage reward_modeling: the loop of `engines/reward_training.py` on Ray Train, with triplets from the run's rows."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray.train.torch

from rl_empathy.config.changes import require_steps_to_come
from rl_empathy.config.sections import DeadlinesConfig, RewardModelingConfig, Stage
from rl_empathy.data.loading import DataSet
from rl_empathy.data.triplets import TripletSource
from rl_empathy.engines.checkpoints import latest_checkpoint
from rl_empathy.engines.embedding import (
    DESCRIPTION,
    Description,
    RewardModel,
    SentenceEncoder,
    read_description,
    resolve_encoder,
)
from rl_empathy.engines.reward_training import RewardTraining
from rl_empathy.errors import RoleDiedError, Stopped
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.observability.role_log import divert_output
from rl_empathy.orchestration.ray_train import (
    LOG_FILE,
    STOP_FILE,
    Reporter,
    TrainJob,
    end_without_memory,
    fit,
)

STAGE: Stage = "reward_modeling"
MODEL_FOLDER, ENCODER_FOLDER = "model", "encoder"

log = logging.getLogger(__name__)


def run_reward_modeling(
    config: RewardModelingConfig,
    *,
    data: DataSet,
    language: str,
    seed: int,
    folder: Path,
    log: MetricsLog,
    num_cpus: float,
    num_gpus: float,
    deadlines: DeadlinesConfig | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    lost: Callable[[RoleDiedError], None] = end_without_memory,
) -> dict[str, Any]:
    """Train the reward model, or go on where an earlier attempt ended. Blocks; Ray has to be connected.

    Args:
        config: Section reward_modeling.
        data: Train and held-out rows; those without a reference are passed over.
        language: en or zh.
        seed: Of triplets and new weights.
        folder: Of the stage, readable by its owner only and shared by the nodes; gets step_*/, model/, worker.log.
        log: Gets a line a step.
        num_cpus: Of the worker.
        num_gpus: Of the worker.
        deadlines: start_s until the first report, update_s between reports.
        should_stop: Looked at all the time; when it says so, a checkpoint is written.
        lost: As in `ray_train.fit`.

    Returns:
        model (relative to the parent of `folder`), threshold, num_steps, and the held-out metrics without their area.

    Raises:
        RunDirectoryError: It has trained for more steps than the run file says.
        Stopped: It was asked to; the checkpoint is written.
        RoleTimeoutError: The worker did not report in time.
        RoleDiedError: The worker died twice, or ran out of memory.
        RlEmpathyError: What our own code raised in the worker.
    """
    if not _is_finished(folder, config):
        checkpoint = latest_checkpoint(folder)
        require_steps_to_come(STAGE, checkpoint.step if checkpoint else 0, config.num_steps)
        log.cut_back(STAGE, checkpoint.step if checkpoint else -1)
        job = TrainJob(
            stage=STAGE,
            loop=_loop,
            settings={"config": config, "data": data, "language": language, "seed": seed, "folder": folder},
            folder=folder,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
        )
        fit(lambda: job, log, deadlines or DeadlinesConfig(), should_stop, lost)
        if not _is_finished(folder, config):
            raise Stopped(f"{STAGE} was asked to stop and wrote a checkpoint; the same command goes on")
    return _result(folder)


def _loop(settings: Mapping[str, Any]) -> None:
    """Runs in the training process."""
    config, language, folder = settings["config"], settings["language"], settings["folder"]
    divert_output(str(folder / LOG_FILE))
    training = _training(config, settings["data"], language, seed=settings["seed"], folder=folder)
    if checkpoint := latest_checkpoint(folder):
        training.restore(checkpoint)
        log.info("going on after step %d", training.step)
    if training.run(Reporter(folder), folder=folder, should_stop=(folder / STOP_FILE).exists):
        description = Description(
            kind=config.kind,
            threshold=training.evaluation["reward_model/threshold"],
            max_tokens=config.max_tokens,
            loss=config.loss,
            language=language,
            num_steps=config.num_steps,
            metrics=training.evaluation,
        )
        RewardModel(training.encoder, description).save(folder / MODEL_FOLDER)


def _training(
    config: RewardModelingConfig, data: DataSet, language: str, *, seed: int, folder: Path
) -> RewardTraining:
    texts = [text for row in data.train for text in (row.post, *(r.text for r in row.references))]
    path = resolve_encoder(
        config.encoder, language=language, texts=texts, seed=seed, folder=folder / ENCODER_FOLDER
    )
    encoder = SentenceEncoder.load(path).to(ray.train.torch.get_device())
    cut = encoder.cut_fraction(texts, max_tokens=config.max_tokens)
    log.info("encoder %s; %.1f %% of the texts are cut to %d tokens", path, 100 * cut, config.max_tokens)
    train = TripletSource(data.train, config.negatives)
    held_out = TripletSource(data.held_out, config.negatives)
    return RewardTraining(
        encoder,
        config,
        draw=lambda step: train.draw(config.batch_pairs, seed=f"{seed}:{step}"),
        held_out=held_out.draw(config.held_out_triplets, seed=f"{seed}:held out"),
    )


def _is_finished(folder: Path, config: RewardModelingConfig) -> bool:
    model = folder / MODEL_FOLDER
    return (model / DESCRIPTION).is_file() and read_description(model).num_steps == config.num_steps


def _result(folder: Path) -> dict[str, Any]:
    description = dataclasses.asdict(read_description(folder / MODEL_FOLDER))
    metrics = {name.rpartition("/")[2]: value for name, value in description["metrics"].items()}
    kept = {key: description[key] for key in ("kind", "threshold", "num_steps", "max_tokens")}
    return {"model": f"{folder.name}/{MODEL_FOLDER}"} | metrics | kept
