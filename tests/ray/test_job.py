"""`ray job submit` to a cluster with token authentication, as on a real one."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.ray.test_faults import check_accounts
from tests.ray.test_runs import LIMIT_S, command, wait_for_step

ROOT = Path(__file__).parents[2]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster(NamedTuple):
    ray: list[str]
    dashboard: str
    environment: dict[str, str]
    address: str
    head: "subprocess.Popen[str]"


def submit(cluster: Cluster, *command: str, seconds: float = 400) -> subprocess.CompletedProcess[str]:
    """`ray job submit`, again while the cluster is still starting: "started" is said of the head alone."""
    deadline = time.monotonic() + 90
    while True:
        done = subprocess.run(
            [*cluster.ray, "job", "submit", "--address", cluster.dashboard, "--", *command],
            env=cluster.environment, capture_output=True, text=True, timeout=seconds,
        )  # fmt: skip
        starting = ("Failed to connect to Ray", "No available agent")
        if not any(words in done.stderr for words in starting) or time.monotonic() > deadline:
            return done
        time.sleep(1)


def ray_below(folder: Path) -> list[str]:
    """The command `ray` by a path of no space, without which `ray start` ends at once; `folder` has none."""
    environment = folder / "e"
    environment.symlink_to(sys.prefix)
    return [str(environment / "bin" / "python"), "-m", "ray.scripts.scripts"]


@contextmanager
def token_cluster(folder):
    """A head node of its own with a token, on loopback; ended by process, not by `ray stop`, which ends every Ray."""
    ray = ray_below(folder)
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    port, dashboard, client, agent = free_ports(4)
    environment = {
        **os.environ,
        "PATH": f"{Path(ray[0]).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("RAY_ADDRESS", None)
    head = subprocess.Popen(
        [
            *ray, "start", "--head", "--block", "--num-cpus=8", "--node-ip-address=127.0.0.1", f"--port={port}",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
            f"--temp-dir={folder}", f"--dashboard-agent-listen-port={agent}", "--disable-usage-stats",
        ],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        for line in head.stdout:
            if "Ray runtime started" in line:
                break
        yield Cluster(ray, f"http://127.0.0.1:{dashboard}", environment, f"127.0.0.1:{port}", head)
    finally:
        head.terminate()
        head.wait(timeout=60)


@pytest.fixture
def cluster(tmp_path_factory):
    with token_cluster(tmp_path_factory.mktemp("r")) as cluster:
        yield cluster


def test_a_submitted_job_trains_on_a_cluster_with_a_token(cluster, tmp_path):
    run_file = str(ROOT / "tests/ray/tiny.yaml")
    settings = (f"run.directory={tmp_path}", "grpo.num_steps=2", "cluster.address=auto")
    done = submit(cluster, "python", "-m", "rl_empathy.train", run_file, *settings)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    lines = (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


@pytest.mark.long
def test_a_check_asks_the_cluster_that_the_run_would_join(cluster):
    run_file = str(ROOT / "tests/ray/tiny.yaml")
    check = [
        sys.executable,
        "-m",
        "rl_empathy.train",
        run_file,
        "--check",
        f"cluster.address={cluster.address}",
    ]
    more = ("", "cluster.rollout_workers.num_cpus=50", "cluster.deadlines.nodes_s=0")
    for settings, code, told in (
        (more[:1], 0, "# the cluster has 8 CPUs and 0 GPUs"),
        (more[:2], 0, "it lacks 104 CPUs, of which the cluster has 8: the run would wait up to 600 s"),
        (more, 3, "104 CPUs, of which the cluster has 8"),
    ):
        done = subprocess.run(
            [*check, *filter(None, settings)],
            env=cluster.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stderr[-2000:]
        assert told in done.stdout + done.stderr


def test_without_the_token_the_job_is_refused(cluster):
    without = cluster.environment | {"RAY_AUTH_MODE": "disabled"}
    done = submit(cluster._replace(environment=without), "true")
    assert done.returncode != 0
    assert "token authentication" in (done.stdout + done.stderr).lower()


@pytest.mark.long
def test_in_a_joined_cluster_the_driver_may_be_killed_and_so_may_the_head(
    cluster, tmp_path, tmp_path_factory
):
    folder = tmp_path / "runs"

    def join(joined: Cluster) -> "subprocess.Popen[str]":
        join_it = command(folder, "cluster.address=auto", "grpo.num_steps=60")
        environment = joined.environment | {"RAY_ADDRESS": joined.address}
        return subprocess.Popen(join_it, env=environment, stderr=subprocess.PIPE, text=True, cwd=tmp_path)

    with join(cluster) as killed:
        wait_for_step(folder, killed, 3)
        killed.kill()
    with join(cluster) as headless:
        wait_for_step(folder, headless, 8)
        servers = psutil.Process(cluster.head.pid).children(recursive=True)
        next(process for process in servers if process.name() == "gcs_server").kill()
        told = headless.communicate(timeout=LIMIT_S)[1]
        assert headless.returncode == 1, told[-3000:]
    assert "Failed to connect to GCS within 60 seconds" in told, "Ray itself ends every process"
    with token_cluster(tmp_path_factory.mktemp("r")) as another, join(another) as last:
        told = last.communicate(timeout=LIMIT_S)[1]
        assert last.returncode == 0, told[-3000:]
    check_accounts(folder, num_steps=60, restarts=0)
