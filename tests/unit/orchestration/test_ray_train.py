"""Whose failure is told when several workers of a stage fail."""

import threading
from pathlib import Path

from ray import cloudpickle
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import WorkerGroupError

from rl_empathy.config.sections import StageWorkerConfig
from rl_empathy.errors import OutOfMemoryError, RoleDiedError, TrainingError
from rl_empathy.orchestration.ray_train import TrainJob, _cause, _sent

GLOO = RuntimeError("Connection closed by peer [127.0.0.1]:4711")
DIED = WorkerHealthCheckFailedError(
    "A worker health check failed", RuntimeError("The actor died unexpectedly")
)


def test_a_worker_is_sent_nothing_of_this_process(tmp_path: Path) -> None:
    """A lock, such as a live line on a terminal has, cannot be sent."""
    lock = threading.RLock()
    job = TrainJob(
        stage="sft",
        loop=print,
        settings={"seed": 1},
        data=lock,
        folder=tmp_path,
        worker=StageWorkerConfig(),
        tell=lambda text: print(lock, text),
    )
    sent = cloudpickle.loads(cloudpickle.dumps(_sent(job, "a reference", 60.0)))
    assert (sent["settings"], sent["data"], sent["folder"]) == ({"seed": 1}, "a reference", tmp_path)


def told(tmp_path: Path, *failures: Exception, by_kernel: bool = False) -> Exception:
    """Of the ranks in order."""
    job = TrainJob(
        stage="sft",
        loop=lambda settings, data: None,
        settings={},
        data=None,
        folder=tmp_path,
        worker=StageWorkerConfig(ranks=len(failures)),
    )
    error = WorkerGroupError("all of it", dict(enumerate(failures)))
    return _cause(error, job, by_kernel=by_kernel)


def test_a_worker_that_died_explains_what_its_partner_met(tmp_path: Path) -> None:
    error = told(tmp_path, GLOO, DIED)
    assert isinstance(error, RoleDiedError)
    assert str(error).startswith("sft: the worker of rank 1 failed: A worker health check failed")
    assert str(error).endswith("worker_1.log")
    assert "The actor died unexpectedly" in (tmp_path / "worker_1.log").read_text()


def test_memory_that_ran_out_on_any_rank_is_told_as_such(tmp_path: Path) -> None:
    ran_out = RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
    error = told(tmp_path, GLOO, ran_out)
    assert isinstance(error, OutOfMemoryError)
    assert "the worker of rank 1 ran out of memory: CUDA out of memory" in str(error)
    assert isinstance(told(tmp_path, GLOO, DIED, by_kernel=True), OutOfMemoryError)


def test_an_error_of_ours_goes_before_what_it_made_others_meet(tmp_path: Path) -> None:
    ours = TrainingError("lower sft.optimizer.learning_rate")
    assert told(tmp_path, GLOO, ours) is ours


def test_of_one_worker_no_rank_is_named(tmp_path: Path) -> None:
    assert str(told(tmp_path, DIED)).startswith("sft: the worker failed: A worker health check failed")
