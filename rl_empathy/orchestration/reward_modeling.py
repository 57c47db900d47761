"""Stage reward_modeling: the encoder's training loop inside Ray Train's `TorchTrainer`.

    driver (this process)                 controller (Ray Train)            worker (Ray Train)
    run_reward_modeling ── fit() ───────────> starts, restarts ───────────────> train_encoder
        log.write <── reports.jsonl <── WriteReports <──── ray.train.report ───────┘  │
                                                                    step_000050/ <────┤
                                                                    model/       <────┘

Our checkpoints are the truth; Ray Train starts the worker, starts it again when it died, and carries the reports.
"""

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from rl_empathy.config.sections import DeadlinesConfig, RewardModelingConfig
from rl_empathy.data.loading import DataSet
from rl_empathy.engines.checkpoints import latest_checkpoint
from rl_empathy.engines.embedding import DESCRIPTION, read_description
from rl_empathy.errors import RlEmpathyError, RoleDiedError, RoleTimeoutError, Stopped
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.reward_modeling_worker import WorkerTask, train_encoder

STAGE = "reward_modeling"
POLL_S = 0.2
TRAIN_ENVIRONMENT = {
    # A worker's report waits for the controller's next look, which by default comes every 2 s.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
TRAIN_SNAPSHOT = "checkpoint_manager_snapshot.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Of the one worker."""

    num_cpus: float
    num_gpus: float


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

    Returns:
        model (relative to the parent of `folder`), threshold, num_steps, and the held-out metrics without their area.

    Raises:
        Stopped: It was asked to; the checkpoint is written.
        RoleTimeoutError: The worker did not report in time.
        RoleDiedError: The worker died twice.
        RlEmpathyError: What our own code raised in the worker.
    """
    folder = folder.absolute()
    if not _is_finished(folder, config):
        checkpoint = latest_checkpoint(folder)
        log.cut_back(STAGE, checkpoint.step if checkpoint else -1)
        for leftover in (TRAIN_SNAPSHOT, WorkerTask.STOP_FILE, WriteReports.FILE):
            (folder / leftover).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        task = WorkerTask(config=config, data=data, language=language, seed=seed, folder=str(folder))
        fit = _Fit(task, Resources(num_cpus=num_cpus, num_gpus=num_gpus))
        _follow(fit, log, deadlines or DeadlinesConfig(), should_stop, folder)
        if not _is_finished(folder, config):
            raise Stopped(
                "reward_modeling was asked to stop and wrote a checkpoint; the same command goes on"
            )
    return _result(folder)


class WriteReports(ray.train.UserCallback):
    """Runs in Ray Train's controller, which is on the driver's node: hands the worker's reports to the driver."""

    FILE = "reports.jsonl"

    def __init__(self, folder: Path) -> None:
        self._path = folder / self.FILE

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Append what rank 0 said."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics[0]) + "\n")


class _Fit(threading.Thread):
    """`TorchTrainer.fit` beside the driver: it has no deadline, and in the main thread it would take over Ctrl-C."""

    def __init__(self, task: WorkerTask, resources: Resources) -> None:
        super().__init__(daemon=True, name="ray-train-fit")
        self._trainer = _trainer(task, resources)
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # handed to the driver, which raises it
            self.error = error


def _trainer(task: WorkerTask, resources: Resources) -> ray.train.torch.TorchTrainer:
    for name, value in TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    folder = Path(task.folder)
    wanted = {"CPU": resources.num_cpus} | ({"GPU": resources.num_gpus} if resources.num_gpus else {})
    return ray.train.torch.TorchTrainer(
        train_encoder,
        train_loop_config={"task": task},
        torch_config=ray.train.torch.TorchConfig(backend="gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=1, use_gpu=resources.num_gpus > 0, resources_per_worker=wanted
        ),
        run_config=ray.train.RunConfig(
            name=folder.name,  # so that the stage's folder is Ray Train's, and our checkpoints need no copy
            storage_path=str(folder.parent),
            failure_config=ray.train.FailureConfig(max_failures=1),
            callbacks=[WriteReports(folder)],
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )


def _follow(
    fit: _Fit, log: MetricsLog, deadlines: DeadlinesConfig, should_stop: Callable[[], bool], folder: Path
) -> None:
    """Write reports to the log as they come, until the training ends; at most a deadline without one."""
    reports, last_step = _reports(folder / WriteReports.FILE), -1
    heard, patience = time.monotonic(), deadlines.start_s
    fit.start()
    running = True
    while running:
        fit.join(POLL_S)
        running = fit.is_alive()
        for report in iter(lambda: next(reports), None):
            step = int(report.pop("step"))
            if step <= last_step:  # the worker was restarted from its last checkpoint
                log.cut_back(STAGE, step - 1)
            log.write(STAGE, step, report)
            last_step, heard, patience = step, time.monotonic(), deadlines.update_s
        if should_stop():
            (folder / WorkerTask.STOP_FILE).touch()
        if running and time.monotonic() - heard > patience:
            raise RoleTimeoutError(
                f"reward_modeling: no report for {patience:g} s (after step {last_step}); see "
                f"{folder / WorkerTask.LOG_FILE}, or raise cluster.deadlines.{'start' if last_step < 0 else 'update'}_s"
            )
    if fit.error is not None:
        raise _cause(fit.error, folder)


def _reports(path: Path) -> Iterator[dict[str, float] | None]:
    """The lines of a growing file; None where it ends for now."""
    position = 0
    while True:
        line = b""
        if path.is_file():
            with path.open("rb") as file:
                file.seek(position)
                line = file.readline()
        if line.endswith(b"\n"):
            position += len(line)
            yield json.loads(line)
        else:
            yield None


def _cause(error: Exception, folder: Path) -> Exception:
    """The error of our own code in the worker, or that the worker died."""
    failures = getattr(error, "worker_failures", {}) or {}
    for failure in [*failures.values(), error]:
        while failure is not None:
            if isinstance(failure, RlEmpathyError):
                return failure
            failure = failure.__cause__ or getattr(failure, "cause", None)
    return RoleDiedError(
        f"reward_modeling: the worker failed twice: {error}\nits log: {folder / WorkerTask.LOG_FILE}"
    )


def _is_finished(folder: Path, config: RewardModelingConfig) -> bool:
    model = folder / WorkerTask.MODEL_FOLDER
    return (model / DESCRIPTION).is_file() and read_description(model).num_steps == config.num_steps


def _result(folder: Path) -> dict[str, Any]:
    description = dataclasses.asdict(read_description(folder / WorkerTask.MODEL_FOLDER))
    metrics = {name.rpartition("/")[2]: value for name, value in description["metrics"].items()}
    kept = {key: description[key] for key in ("kind", "threshold", "num_steps", "max_tokens")}
    return {"model": f"{folder.name}/{WorkerTask.MODEL_FOLDER}"} | metrics | kept
