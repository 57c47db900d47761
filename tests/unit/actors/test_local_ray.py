"""A local cluster is nobody else's: what Ray is started with, where it keeps its sessions, and with which file mask.

Which sockets and files a real run has is looked at in tests/ray/test_runs.py.
"""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._private import ray_constants

from rl_empathy.actors.local_ray import LOOPBACK, start_local_ray
from rl_empathy.errors import ResourceError

OWN_ENVIRONMENT = {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "VLLM_HOST_IP"}


class RecordingRay:
    """Stands for `ray.init`: keeps what it was asked for, and what it met in its process."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.environment: dict[str, str] = {}
        self.joins_others = True
        self.mask = -1

    def __call__(self, **asked: Any) -> str:
        self.asked, self.environment = asked, dict(os.environ)
        self.joins_others = ray_constants.ENABLE_RAY_CLUSTER
        self.mask = os.umask(0o077)
        os.umask(self.mask)
        return "context"


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordingRay]:
    recording = RecordingRay()
    monkeypatch.setattr(ray, "init", recording)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    for name in OWN_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    before = os.umask(0o022)
    assert start_local_ray(2, logging_level=0) == "context"
    yield recording
    os.umask(before)


def test_a_local_cluster_listens_on_loopback_only(started: RecordingRay) -> None:
    assert not started.joins_others, "Ray then takes the address of loopback for its node"
    (interface,) = {
        name for name, found in psutil.net_if_addrs().items() if any(a.address == LOOPBACK for a in found)
    }
    assert started.environment["GLOO_SOCKET_IFNAME"] == interface
    assert started.environment["NCCL_SOCKET_IFNAME"] == interface
    assert started.environment["VLLM_HOST_IP"] == LOOPBACK


def test_a_local_cluster_has_no_dashboard_and_no_exporter_of_metrics(started: RecordingRay) -> None:
    assert started.asked["include_dashboard"] is False
    assert started.asked["_system_config"] == {"enable_metrics_collection": False}


def test_what_a_local_cluster_writes_is_for_its_owner_only(started: RecordingRay, tmp_path: Path) -> None:
    assert started.mask == 0o077
    own = Path(started.asked["_temp_dir"]).parent
    assert own.parent == tmp_path
    assert stat.S_IMODE(own.stat().st_mode) == 0o700


def test_the_process_is_afterwards_as_it_was(started: RecordingRay) -> None:
    assert ray_constants.ENABLE_RAY_CLUSTER
    assert os.umask(0o022) == 0o022
    assert not OWN_ENVIRONMENT & os.environ.keys()


def test_a_folder_for_sessions_that_others_may_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / f"rl_empathy-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(ResourceError, match="others may read it or own it; remove it"):
        start_local_ray(2, logging_level=0)


class LateRay:
    """Stands for `ray.init` on a busy machine: late so many times, each time with a process that goes on."""

    def __init__(self, late: int) -> None:
        self.late, self.left = late, list[subprocess.Popen[bytes]]()

    def __call__(self, **_: Any) -> str:
        if len(self.left) == self.late:
            return "context"
        self.left.append(subprocess.Popen(["sleep", "600"]))
        raise Exception("The current node timed out during startup.")


@pytest.mark.parametrize("late", [1, 3])
def test_ray_that_is_late_is_started_anew_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], late: int
) -> None:
    ray_of_it = LateRay(late)
    monkeypatch.setattr(ray, "init", ray_of_it)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    if late < 3:
        assert start_local_ray(2, logging_level=0) == "context"
    else:
        with pytest.raises(ResourceError, match="timed out during startup"):
            start_local_ray(2, logging_level=0)
    assert capsys.readouterr().err.count("started once more") == min(late, 2)
    assert len(ray_of_it.left) == late
    assert not any(psutil.pid_exists(process.pid) for process in ray_of_it.left)
