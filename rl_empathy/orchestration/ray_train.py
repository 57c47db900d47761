"""One way into Ray Train: a stage's training loop with a deadline, a stop, and its metrics here.

driver (this process)          controller (Ray Train)          workers (Ray Train), a rank each
fit() ── Trainer.fit ─────────> starts ──────────────────────> meet, then the stage's loop
ray.put(data) ──────────────────────────────────────────────> mapped by those of a node
log.write <───────────────── reports.jsonl <───────────────── StageWorker of rank 0
                               where the last one is <─────── step_000050/, which our code writes on rank 0
stop ───────────────────────────────────────────────────────> a file, looked for between two steps
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from rl_empathy.config.sections import DeadlinesConfig, StageWorkerConfig
from rl_empathy.engines.ranks import meet, open_store
from rl_empathy.errors import OutOfMemoryError, RlEmpathyError, RoleDiedError, RoleTimeoutError
from rl_empathy.observability.memory import KernelKills, first_line, memory_ran_out, own_pulse
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.observability.reports import Follower, append_note, append_report
from rl_empathy.observability.role_log import divert_output

POLL_S = 0.2
SETTLE_S = 5.0
"""How long a worker whose partner may have died waits before it fails, too."""
STOP_FILE, REPORTS_FILE = "stop", "reports.jsonl"
PEAK_FILES = "peak_bytes_*"
"""What each worker held at most, of its node and of its GPU."""
_SNAPSHOT = "checkpoint_manager_snapshot.json"
"""From which Ray Train would go on by itself; where we go on our own checkpoints say."""
_ENVIRONMENT = {
    # A worker's report waits for the controller's next look, which by default comes every 2 s.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """A training loop and where it runs."""

    stage: str
    loop: Callable[[Any, Any], None]
    """What each worker does, once the ranks have met; gets `settings` and `data`."""
    settings: Mapping[str, Any]
    data: Any
    """Goes through the object store: a copy a node, of which the arrays are mapped and not copied again."""
    folder: Path
    """The stage's folder, absolute, readable by its owner only and shared by the nodes."""
    worker: StageWorkerConfig
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
        RoleDiedError: The worker died twice, or the restarts are spent.
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
    for leftover in (
        job.folder / _SNAPSHOT,
        job.folder / STOP_FILE,
        job.folder / REPORTS_FILE,
        *job.folder.glob(PEAK_FILES),
    ):
        leftover.unlink(missing_ok=True)
    kernel_kills = KernelKills()
    running = _Fit(job, deadlines.start_s)
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
            since = f"after step {last_step}" if last_step >= 0 else "since its start"
            raise RoleTimeoutError(
                f"{job.stage}: no report for {patience:g} s ({since}); see {_logs(job)}, or raise "
                f"cluster.deadlines.{key}_s"
            )
    if running.error is not None:
        raise _cause(running.error, job, by_kernel=kernel_kills.one_more())


def raise_out_of_memory(error: RoleDiedError) -> None:
    """For `fit`: another start with the same settings would run out of memory again."""
    if isinstance(error, OutOfMemoryError):
        raise error


def _logs(job: TrainJob) -> Path:
    return log_of(job.folder) if job.worker.ranks == 1 else job.folder / "worker*.log"


def log_of(folder: Path, rank: int = 0) -> Path:
    """Where a worker of the stage writes."""
    return folder / ("worker.log" if rank == 0 else f"worker_{rank}.log")


class StageWorker:
    """In a worker: what a loop tells the driver, and hears of it. Rank 0 speaks for all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._speaks = ray.train.get_context().get_world_rank() == 0

    def report(self, step: int, metrics: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Hand a step's metrics to the driver; name the checkpoint that our code wrote in this step, on every rank.

        Ray Train hears of checkpoints only: a report to it waits until its controller looks, five times a second,
        which is twice as long as a step of a small model takes.
        """
        if self._speaks:
            append_report(self._folder / REPORTS_FILE, step, metrics)
        if checkpoint:
            ray.train.report(
                {"step": step},
                checkpoint=ray.train.Checkpoint.from_directory(checkpoint) if self._speaks else None,
                checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
            )

    def tell(self, note: str) -> None:
        """Say something to the user."""
        if self._speaks:
            append_note(self._folder / REPORTS_FILE, note)

    def should_stop(self) -> bool:
        """Whether the driver wants an end."""
        return (self._folder / STOP_FILE).exists()


class _Fit(threading.Thread):
    """`fit` of Ray Train beside the driver: it has no deadline, and in the main thread it would take over Ctrl-C."""

    def __init__(self, job: TrainJob, start_s: float) -> None:
        super().__init__(daemon=True, name="ray-train-fit")
        self._trainer = _trainer(job, start_s)
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # handed to the driver, which raises it
            self.error = error


def _trainer(job: TrainJob, start_s: float) -> Any:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    worker = job.worker
    wanted = {"CPU": worker.num_cpus} | ({"GPU": worker.num_gpus} if worker.num_gpus else {})
    # Not TorchTrainer: it opens a store on every interface, for ranks that meet by themselves.
    return DataParallelTrainer(
        _work,
        train_loop_config=_sent(job, ray.put(job.data), start_s),
        scaling_config=ray.train.ScalingConfig(
            num_workers=worker.ranks, use_gpu=worker.num_gpus > 0, resources_per_worker=wanted
        ),
        run_config=ray.train.RunConfig(
            name=job.folder.name,  # so that the stage's folder is Ray Train's, and our checkpoints need no copy
            storage_path=str(job.folder.parent),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]  # v2's class has it
        ),
    )


def _sent(job: TrainJob, data: Any, start_s: float) -> dict[str, Any]:
    """What a worker gets of a job: nothing of this process, such as what draws on its terminal."""
    return {
        "loop": job.loop,
        "settings": dict(job.settings),
        "folder": job.folder,
        "on_gpu": job.worker.num_gpus > 0,
        "data": data,
        "start_s": start_s,
    }


def _work(config: Mapping[str, Any]) -> None:
    """Runs in each worker."""
    folder, context = config["folder"], ray.train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    divert_output(str(log_of(folder, rank)))
    if not config["on_gpu"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves those of the node visible
    try:
        if ranks > 1:
            store = open_store(ray.util.get_node_ip_address(), ranks) if rank == 0 else None
            host, port = broadcast_from_rank_zero((store.host, store.port) if store else ("", 0))
            meet(rank, ranks, store or dist.TCPStore(host, port, ranks))
        data = ray.get(config["data"], timeout=config["start_s"])  # noqa: TID251
        config["loop"](config["settings"], data)
    except Exception as error:
        if ranks > 1 and not isinstance(error, RlEmpathyError):
            # A partner that died is the cause, and Ray notices its death later than we do.
            time.sleep(SETTLE_S)
        raise
    finally:
        pulse = own_pulse()
        path = folder / PEAK_FILES.replace("*", str(rank))
        path.write_text(f"{pulse.peak_bytes} {pulse.gpu_peak_bytes}", encoding="ascii")


def _cause(error: Exception, job: TrainJob, *, by_kernel: bool) -> Exception:
    """The error of our own code in a worker, or that a worker died."""
    failures: dict[int, Exception] = dict(getattr(error, "worker_failures", {}) or {})
    for failure in [*failures.values(), error]:
        while failure is not None:
            if isinstance(failure, RlEmpathyError):
                return failure
            failure = failure.__cause__ or getattr(failure, "cause", None)  # type: ignore[assignment]
    rank, first = min(failures.items(), key=_told_by, default=(0, error))
    log = log_of(job.folder, rank)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"The end of the worker, as Ray tells it: {first}\n")
    who = f"{job.stage}: the worker" + (f" of rank {rank}" if job.worker.ranks > 1 else "")
    if (
        how := memory_ran_out(first)
        or memory_ran_out(error)
        or ("the kernel ended it, since memory was full" if by_kernel else None)
    ):
        return OutOfMemoryError(f"{who} ran out of memory: {how}. Its log: {log}")
    return RoleDiedError(f"{who} failed: {first_line(str(first))}. Its log: {log}")


def _told_by(failure: tuple[int, Exception]) -> tuple[bool, int]:
    """One that died explains what its partners met."""
    rank, error = failure
    return not (isinstance(error, WorkerHealthCheckFailedError) or memory_ran_out(error)), rank
