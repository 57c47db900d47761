"""What Ray Train's worker does in stage reward_modeling: rows to triplets, triplets to the training loop."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rl_empathy.config.sections import RewardModelingConfig
from rl_empathy.data.loading import DataSet

TRIPLETS_PER_PROMPT = 4
"""Held-out triplets for each held-out prompt."""
MAX_HELD_OUT_TRIPLETS = 512

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTask:
    """All that the worker needs to know."""

    MODEL_FOLDER: ClassVar[str] = "model"
    ENCODER_FOLDER: ClassVar[str] = "encoder"
    LOG_FILE: ClassVar[str] = "worker.log"
    STOP_FILE: ClassVar[str] = "stop"

    config: RewardModelingConfig
    data: DataSet
    language: str
    seed: int
    folder: str


def train_encoder(arguments: dict[str, WorkerTask]) -> None:
    """Ray Train's train function: everything is imported here, in the worker."""
    import ray.train
    import ray.train.torch

    from rl_empathy.engines.checkpoints import latest_checkpoint
    from rl_empathy.observability.role_log import divert_output

    task = arguments["task"]
    folder = Path(task.folder)
    divert_output(str(folder / WorkerTask.LOG_FILE))

    def report(step: int, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """C7: Ray Train carries the directory that our code wrote, and does not copy it."""
        ray.train.report(
            {"step": step, **metrics},
            checkpoint=ray.train.Checkpoint.from_directory(checkpoint) if checkpoint else None,
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )

    training = _training(task)
    training.encoder.to(ray.train.torch.get_device())
    if checkpoint := latest_checkpoint(folder):
        training.restore(checkpoint)
        log.info("going on after step %d", training.step)
    if training.run(report, folder=folder, should_stop=(folder / WorkerTask.STOP_FILE).exists):
        _save(task, training)


def _training(task: WorkerTask):  # type: ignore[no-untyped-def]  # its class is imported in the worker only
    from rl_empathy.data.triplets import TripletSource
    from rl_empathy.engines.embedding import SentenceEncoder, resolve_encoder
    from rl_empathy.engines.reward_training import RewardTraining

    config, data = task.config, task.data
    texts = [text for row in data.train for text in (row.post, *(r.text for r in row.references))]
    path = resolve_encoder(
        config.encoder,
        language=task.language,
        texts=texts,
        seed=task.seed,
        folder=Path(task.folder) / WorkerTask.ENCODER_FOLDER,
    )
    encoder = SentenceEncoder.load(path)
    cut = encoder.cut_fraction(texts, max_tokens=config.max_tokens)
    log.info("encoder %s; %.1f %% of the texts are cut to %d tokens", path, 100 * cut, config.max_tokens)
    source, others = (
        TripletSource(data.train, config.negatives),
        TripletSource(data.held_out, config.negatives),
    )
    num = min(TRIPLETS_PER_PROMPT * len(others), MAX_HELD_OUT_TRIPLETS)
    return RewardTraining(
        encoder,
        config,
        draw=lambda step: source.draw(config.batch_pairs, seed=f"{task.seed}:{step}"),
        held_out=others.draw(num, seed=f"{task.seed}:held out"),
    )


def _save(task: WorkerTask, training) -> None:  # type: ignore[no-untyped-def]
    from rl_empathy.engines.embedding import Description, RewardModel

    config, metrics = task.config, training.evaluation
    description = Description(
        kind=config.kind,
        threshold=metrics["reward_model/threshold"],
        max_tokens=config.max_tokens,
        loss=config.loss,
        language=task.language,
        num_steps=config.num_steps,
        metrics=metrics,
    )
    RewardModel(training.encoder, description).save(Path(task.folder) / WorkerTask.MODEL_FOLDER)
