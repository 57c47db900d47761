"""One way into Ray Train: run a loop of `engines/` in a `TorchTrainer`, quietly, and see its metrics here."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rl_empathy.errors import RlEmpathyError, RoleDiedError, Stopped
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.stop import StopSignal

POLL_S = 0.5


async def fit(
    loop: Callable[[dict[str, Any]], None],
    settings: dict[str, Any],
    *,
    folder: Path,
    log: MetricsLog,
    stop: StopSignal,
    num_cpus: float,
    num_gpus: float,
) -> None:
    """Run a training loop on the cluster; it writes its own metrics and checkpoints.

    Args:
        loop: Called in the training process with `settings`.
        settings: Picklable.
        folder: Of the stage; Ray Train keeps its own records in `folder/ray_train`.
        log: Its lines reach the sinks of this process while the loop writes them.
        stop: Ends the wait.
        num_cpus: Logical CPUs, and threads.
        num_gpus: GPUs.

    Raises:
        Stopped: `stop` was set; the loop's last checkpoint is where the next start goes on.
        RlEmpathyError: What the loop raised.
    """
    trainer = _trainer(loop, settings, folder, num_cpus, num_gpus)
    following = asyncio.create_task(_follow(log))
    try:
        done = await stop.unless_set(asyncio.to_thread(_fit, trainer))
    finally:
        following.cancel()
    if done is None:
        raise Stopped("stopped while training; the same command goes on from the last checkpoint")


def _trainer(
    loop: Callable[[dict[str, Any]], None],
    settings: dict[str, Any],
    folder: Path,
    num_cpus: float,
    num_gpus: float,
) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    return TorchTrainer(
        loop,
        train_loop_config=settings,
        torch_config=TorchConfig(backend="nccl" if num_gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=1,
            use_gpu=num_gpus > 0,
            resources_per_worker={"CPU": num_cpus, **({"GPU": num_gpus} if num_gpus else {})},
        ),
        run_config=RunConfig(
            name="ray_train",
            storage_path=str(folder.resolve()),
            failure_config=FailureConfig(max_failures=1),
        ),
    )


def _fit(trainer: Any) -> bool:
    from ray.train import TrainingFailedError

    try:
        trainer.fit()
    except TrainingFailedError as error:
        causes = [cause for cause in getattr(error, "worker_failures", {}).values() if cause is not None]
        for cause in causes:
            inner = getattr(cause, "cause", cause)
            if isinstance(inner, RlEmpathyError):
                raise inner from error
        raise RoleDiedError(f"training failed: {causes[0] if causes else error}") from error
    return True


async def _follow(log: MetricsLog) -> None:
    position = log.num_bytes
    try:
        while True:
            await asyncio.sleep(POLL_S)
            position = log.lines_after(position)
    finally:
        log.lines_after(position)
