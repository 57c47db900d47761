"""One way into Ray Train: a stage's training loop with a deadline, a stop, and its metrics here.

driver (this process)          controller (Ray Train)          worker (Ray Train)
fit() ── Trainer.fit ─────────> starts ──────────────────────> train function
log.write <───────────────── reports.jsonl <───────────────── Reporter
                               where the last one is <─────── step_000050/   (C7: our code writes it)
stop ───────────────────────────────────────────────────────> a file, looked for between two steps
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from rl_empathy.config.sections import DeadlinesConfig
from rl_empathy.errors import OutOfMemoryError, RlEmpathyError, RoleDiedError, RoleTimeoutError
from rl_empathy.observability.memory import KernelKills, first_line, memory_ran_out, own_pulse
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.observability.reports import Follower, append_report

POLL_S = 0.2
STOP_FILE, LOG_FILE, REPORTS_FILE = "stop", "worker.log", "reports.jsonl"
PEAK_FILE = "peak_bytes"
"""What the worker held at most, of its node and of its GPU."""
_SNAPSHOT = "checkpoint_manager_snapshot.json"
_ENVIRONMENT = {
    # A worker's report waits for the controller's next look, which by default comes every 2 s.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """A training loop and where it runs."""

    stage: str
    loop: Callable[[Any], None]
    """Ray Train's train function; gets `settings`."""
    settings: Mapping[str, Any]
    folder: Path
    """The stage's folder, absolute, readable by its owner only and shared by the nodes."""
    num_cpus: float
    num_gpus: float
    tell: Callable[[str], None] = print
    """Gets what the worker has to say to the user."""


def fit(
    make_job: Callable[[], TrainJob],
    log: MetricsLog,
    deadlines: DeadlinesConfig,
    should_stop: Callable[[], bool],
    lost: Callable[[RoleDiedError], None],
) -> None:
    """Run a job and write its reports to the log as they come. Blocks; Ray has to be connected.

    A worker that dies is started again from its last checkpoint: once, and as often as `lost` finds it worth where it
    ran out of memory.

    Args:
        make_job: Says what to run; asked before every start.
        log: Gets a line a step.
        deadlines: start_s until the first report, update_s between reports.
        should_stop: Looked at all the time; when it says so, the loop is told by a file, and writes a checkpoint.
        lost: Told of every death that is followed by another start; what it raises ends the job.

    Raises:
        RoleTimeoutError: The worker did not report in time.
        OutOfMemoryError: The worker ran out of memory, and `lost` raised it.
        RoleDiedError: The worker died twice.
        RlEmpathyError: What our own code raised in the worker.
    """
    died = False
    while True:
        try:
            return _fit_once(make_job(), log, deadlines, should_stop)
        except RoleDiedError as error:
            out_of_memory = isinstance(error, OutOfMemoryError)
            if died and not out_of_memory:
                raise
            died |= not out_of_memory
            lost(error)


def _fit_once(
    job: TrainJob, log: MetricsLog, deadlines: DeadlinesConfig, should_stop: Callable[[], bool]
) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    for leftover in (_SNAPSHOT, STOP_FILE, REPORTS_FILE):
        (job.folder / leftover).unlink(missing_ok=True)
    kernel_kills = KernelKills()
    running = _Fit(job)
    running.start()
    reports, last_step = Follower(job.folder / REPORTS_FILE), -1
    heard, patience = time.monotonic(), deadlines.start_s
    alive = True
    while alive:
        running.join(POLL_S)
        alive = running.is_alive()
        for report in reports.new():
            if "note" in report:
                job.tell(report["note"])
                continue
            step = int(report.pop("step"))
            if last_step < 0:  # a worker before this one went further than its last checkpoint
                log.cut_back(job.stage, step - 1)
            log.write(job.stage, step, report)
            last_step, heard, patience = step, time.monotonic(), deadlines.update_s
        if should_stop():
            (job.folder / STOP_FILE).touch()
        if alive and time.monotonic() - heard > patience:
            key = "start" if last_step < 0 else "update"
            raise RoleTimeoutError(
                f"{job.stage}: no report for {patience:g} s (after step {last_step}); see "
                f"{job.folder / LOG_FILE}, or raise cluster.deadlines.{key}_s"
            )
    if running.error is not None:
        raise _cause(running.error, job, by_kernel=kernel_kills.one_more())


def end_without_memory(error: RoleDiedError) -> None:
    """For `fit`: another start with the same settings would run out of memory again."""
    if isinstance(error, OutOfMemoryError):
        raise error


class Reporter:
    """In the worker: hands every step's metrics to the driver.

    Ray Train hears of checkpoints only: a report to it waits until its controller looks, five times a second, which is
    twice as long as a step of a small model takes.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / REPORTS_FILE

    def __call__(self, step: int, metrics: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Append the metrics; name the checkpoint that our code wrote in this step."""
        append_report(self._path, step, metrics)
        if checkpoint:
            ray.train.report(
                {"step": step},
                checkpoint=ray.train.Checkpoint.from_directory(checkpoint),
                checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
            )


class _Fit(threading.Thread):
    """`fit` of Ray Train beside the driver: it has no deadline, and in the main thread it would take over Ctrl-C."""

    def __init__(self, job: TrainJob) -> None:
        super().__init__(daemon=True, name="ray-train-fit")
        self._trainer = _trainer(job)
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # handed to the driver, which raises it
            self.error = error


def _trainer(job: TrainJob) -> Any:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    wanted = {"CPU": job.num_cpus} | ({"GPU": job.num_gpus} if job.num_gpus else {})
    # Not TorchTrainer: it opens a store on every interface, for ranks that the training engine joins by itself.
    return DataParallelTrainer(
        _watched,
        train_loop_config={"loop": job.loop, "settings": dict(job.settings), "peak": job.folder / PEAK_FILE},
        scaling_config=ray.train.ScalingConfig(
            num_workers=1, use_gpu=job.num_gpus > 0, resources_per_worker=wanted
        ),
        run_config=ray.train.RunConfig(
            name=job.folder.name,  # so that the stage's folder is Ray Train's, and our checkpoints need no copy
            storage_path=str(job.folder.parent),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]  # v2's class has it
        ),
    )


def _watched(config: Mapping[str, Any]) -> None:
    """Runs in the worker."""
    try:
        config["loop"](config["settings"])
    finally:
        pulse = own_pulse()
        config["peak"].write_text(f"{pulse.peak_bytes} {pulse.gpu_peak_bytes}", encoding="ascii")


def _cause(error: Exception, job: TrainJob, *, by_kernel: bool) -> Exception:
    """The error of our own code in the worker, or that the worker died."""
    failures = getattr(error, "worker_failures", {}) or {}
    for failure in [*failures.values(), error]:
        while failure is not None:
            if isinstance(failure, RlEmpathyError):
                return failure
            failure = failure.__cause__ or getattr(failure, "cause", None)
    log = job.folder / LOG_FILE
    with log.open("a", encoding="utf-8") as file:
        file.write(f"The end of the worker, as Ray tells it: {error}\n")
    if how := memory_ran_out(error) or ("the kernel ended it, since memory was full" if by_kernel else None):
        return OutOfMemoryError(f"{job.stage}: the worker ran out of memory: {how}. Its log: {log}")
    return RoleDiedError(f"{job.stage}: the worker failed: {first_line(str(error))}. Its log: {log}")
