"""Whole runs on a cluster of several nodes, each with an object store of its own; nodes join and are killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from rl_empathy.orchestration.scaling import ask_by_hand
from tests.ray.test_faults import check_accounts, process_of
from tests.ray.test_job import free_ports, ray_below
from tests.ray.test_runs import LIMIT_S, ROOT, ledger, metrics, run, start, wait_for_step

HEAD_ID = "f" * 51 + "00000"
AUTOSCALER_ENVIRONMENT = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
}
UNUSED_LISTS = (
    *("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands"),
    *("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
)
"""What the autoscaler wants to find in its file, for nodes that it reaches by ssh."""


@contextmanager
def cluster_of(tmp_path, *, head_cpus: int):
    """A cluster of a head; `add_node` of it lets others join. Nothing of a node is in another's shared memory."""
    cluster = Cluster(initialize_head=True, head_node_args=node(tmp_path, "head", head_cpus))
    try:
        yield cluster
    finally:
        cluster.shutdown()


def node(tmp_path, name: str, num_cpus: int) -> dict:
    store = tmp_path / f"object store of {name}"
    store.mkdir()
    return {
        "num_cpus": num_cpus,
        "plasma_directory": str(store),
        "object_store_memory": 100 << 20,
        "include_dashboard": False,
    }


@pytest.fixture(autouse=True)
def _environment_of_every_node(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # a cluster of this kind is started without a token


@contextmanager
def autoscaled_cluster(tmp_path, *, head_cpus: int, node_cpus: int):
    """A head with Ray's own autoscaler, which starts a node on this machine (Ray's fake provider) on demand; yields
    the address.
    """
    [port] = free_ports(1)
    address = f"{ray.util.get_node_ip_address()}:{port}"
    settings = {
        "cluster_name": "tests",
        "max_workers": 1,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": address,
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
        },
        "auth": {"ssh_user": "nobody"},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": {"CPU": node_cpus},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 1,
            },
        },
        "head_node_type": "ray.head.default",
        **{key: {} for key in ("file_mounts", "docker", "head_node")},
        **{key: [] for key in UNUSED_LISTS},
        "file_mounts_sync_continuously": False,
        "upscaling_speed": 1.0,
    }
    path = tmp_path / "autoscaler.json"  # JSON is YAML
    path.write_text(json.dumps(settings))
    head = subprocess.Popen(
        [
            *ray_below(tmp_path), "start", "--head", "--block", f"--port={port}", f"--num-cpus={head_cpus}",
            f"--autoscaling-config={path}",
        ],
        env=os.environ | AUTOSCALER_ENVIRONMENT,
    )  # fmt: skip
    try:
        wait_for_port(port, head)
        yield address
    finally:
        below = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
        head.kill()
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait(timeout=30)


def wait_for_port(port: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    with socket.socket() as probe:
        while probe.connect_ex((ray.util.get_node_ip_address(), port)):
            assert process.poll() is None, "the head ended"
            assert time.monotonic() < deadline, "the head is late"
            time.sleep(0.2)


def wait_for_workers(folder, process: subprocess.Popen[str], count: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while metrics(folder)[-1]["fleet/rollout_workers_ready"] != count:
        assert process.poll() is None, process.stderr.read()[-6000:]
        assert time.monotonic() < deadline, f"never {count} workers: {metrics(folder)[-1]}"
        time.sleep(0.1)


def drain(cluster: Cluster, node_id: str) -> None:
    """What a cloud's autoscaler does half a minute before it takes a node back."""
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test"]
    command = [Path(sys.executable).with_name("ray"), "drain-node", "--address", cluster.address]
    subprocess.run(
        [*command, "--node-id", node_id, *reason, "--deadline-remaining-seconds", "120"],
        check=True,
        timeout=60,
    )


def test_a_run_waits_for_the_nodes_that_it_lacks_and_says_what_lacks_when_none_come(tmp_path):
    folder = tmp_path / "runs"
    lacking = "the run needs 6 CPUs, of which the cluster has 2"
    with cluster_of(tmp_path, head_cpus=2) as cluster:
        there = f"cluster.address={cluster.address}"
        refused = run(folder, there, "cluster.deadlines.nodes_s=3", expect=3)
        assert f"{lacking}: waiting up to 3 s for nodes (cluster.deadlines.nodes_s)" in refused.stderr
        assert f"{lacking}. Lower cluster.*.num_cpus" in refused.stderr
        with start(folder, there, "cluster.deadlines.nodes_s=120", "--fresh") as stopped:
            assert any("waiting up to 120 s for nodes" in line for line in stopped.stderr)
            stopped.terminate()
            assert stopped.wait(timeout=30) == 75
            assert (
                "stopped before the cluster had room for the run; the same command goes on"
                in stopped.stderr.read()
            )
        with start(folder, there, "cluster.deadlines.nodes_s=120") as patient:
            assert any("waiting up to 120 s for nodes" in line for line in patient.stderr)
            cluster.add_node(**node(tmp_path, "second", 4))
            assert any("starting 2 rollout worker(s)" in line for line in patient.stderr)
            patient.kill()


@pytest.mark.long
def test_an_autoscaler_brings_the_nodes_that_a_run_lacks(tmp_path):
    folder = tmp_path / "runs"
    with autoscaled_cluster(tmp_path, head_cpus=2, node_cpus=4) as address:
        done = run(folder, f"cluster.address={address}")
    assert "the run needs 6 CPUs, of which the cluster has 2: waiting up to 600 s for nodes" in done.stderr
    check_accounts(folder, num_steps=8, restarts=0)


@pytest.mark.long
def test_workers_come_with_nodes_and_go_with_them(tmp_path):
    """The head has room for one worker. One node is killed, another is taken back with notice, a worker is asked to go
    (SIGTERM); others replace them.
    """
    folder = tmp_path / "runs"
    with cluster_of(tmp_path, head_cpus=6) as cluster:
        settings = (
            f"cluster.address={cluster.address}",
            "cluster.rollout_workers={min: 1, num_cpus: 2, kv_cache_mib: 64}",
            "grpo.num_steps=100000",
            "grpo.checkpoint_every=50",
            "cluster.deadlines.health_s=12",  # a role is asked each second
            "grpo.optimizer.learning_rate=1.0e-9",  # a policy that stays random goes on for ever
        )
        with start(folder, *settings) as process:
            wait_for_step(folder, process, 2)
            assert metrics(folder)[-1]["fleet/rollout_workers_ready"] == 1
            ask_by_hand(folder / "tiny", 2)
            killed = cluster.add_node(**node(tmp_path, "one that is killed", 2))
            wait_for_workers(folder, process, 2)
            cluster.remove_node(killed, allow_graceful=False)
            wait_for_workers(folder, process, 1)
            taken_back = cluster.add_node(**node(tmp_path, "one that is taken back", 2))
            wait_for_workers(folder, process, 2)
            assert metrics(folder)[-1]["fleet/restarts"] == 1
            drain(cluster, taken_back.node_id)
            wait_for_workers(folder, process, 1)
            cluster.remove_node(taken_back, allow_graceful=False)
            cluster.add_node(**node(tmp_path, "the last one", 2))
            wait_for_workers(folder, process, 2)
            asked_to_go = process_of(os.getpid(), "RolloutWorker")
            asked_to_go.terminate()
            asked_to_go.wait(timeout=LIMIT_S)
            wait_for_workers(folder, process, 1)  # there is room for another only now
            wait_for_workers(folder, process, 2)
            ask_by_hand(folder / "tiny", 1)
            wait_for_workers(folder, process, 1)
            process.send_signal(signal.SIGTERM)
            told = process.communicate(timeout=LIMIT_S)[1]
            assert process.returncode == 75, told[-3000:]
    lines = metrics(folder)
    assert "is on a node that is about to go" in told
    assert "was asked to go (SIGTERM)" in told
    assert told.count("1 -> 2 rollout workers") == 1, "those in the place of others came unasked"
    assert lines[-1]["fleet/restarts"] == 1, "the workers that were told beforehand were not lost"
    assert lines[-1]["ledger/duplicates"] == 0
    survivors = {(line["epoch"], line["index"]) for line in ledger(folder) if line["state"] == "trained"}
    assert len(survivors) == 4 * lines[-1]["step"] == lines[-1]["ledger/trained"]


@pytest.mark.long
def test_groups_that_go_with_the_node_that_held_their_tokens_are_made_anew(tmp_path, monkeypatch):
    """Ray keeps the tokens of long completions where they were written; here it does so with short ones, too.
    Most groups wait for a slow judge, so that nobody else has them yet.
    """
    monkeypatch.setenv("RAY_max_direct_call_object_size", "0")
    folder = tmp_path / "runs"
    with cluster_of(tmp_path, head_cpus=5) as cluster:
        settings = (
            f"cluster.address={cluster.address}",
            "cluster.rollout_workers={min: 1, num_cpus: 2, kv_cache_mib: 64}",
            "grpo.num_steps=100000",
            "grpo.max_staleness=4",
            "rewards.terms=[{kind: function, function: tests.rewards.slow, sees: all}]",
            "grpo.kl_coef=0",  # no reference model, which would fetch them at once
            "grpo.optimizer.learning_rate=1.0e-9",
        )
        with start(folder, *settings) as process:
            wait_for_step(folder, process, 2)
            ask_by_hand(folder / "tiny", 2)
            second = cluster.add_node(**node(tmp_path, "second", 2))
            wait_for_workers(folder, process, 2)
            wait_for_step(
                folder, process, metrics(folder)[-1]["step"] + 6
            )  # half of what waits is of the new one
            cluster.remove_node(second, allow_graceful=False)
            wait_for_workers(folder, process, 1)
            wait_for_step(folder, process, metrics(folder)[-1]["step"] + 5)
            process.send_signal(signal.SIGTERM)
            told = process.communicate(timeout=LIMIT_S)[1]
            assert process.returncode == 75, told[-3000:]
    last = metrics(folder)[-1]
    assert last["ledger/duplicates"] == 0
    survivors = {(line["epoch"], line["index"]) for line in ledger(folder) if line["state"] == "trained"}
    assert len(survivors) == 4 * last["step"] == last["ledger/trained"]
    assert last["ledger/retried"] > 0
    assert "Starting policy_trainer anew" not in told


@pytest.mark.long
def test_the_node_of_every_role_may_go_and_the_run_goes_on_on_another(tmp_path):
    """With it go the trainer, the published weights, and every group under way; the head has room for no role."""
    folder = tmp_path / "runs"
    with cluster_of(tmp_path, head_cpus=0) as cluster:
        first = cluster.add_node(**node(tmp_path, "first", 6))
        with start(folder, f"cluster.address={cluster.address}", "grpo.num_steps=80") as process:
            wait_for_step(folder, process, 5)
            cluster.add_node(**node(tmp_path, "second", 6))
            assert process.poll() is None, "the run was over before the second node had joined"
            cluster.remove_node(first, allow_graceful=False)
            told = process.communicate(timeout=LIMIT_S)[1]
            assert process.returncode == 0, told[-3000:]
    check_accounts(folder, num_steps=80, restarts=5)


@pytest.mark.long
def test_two_ranks_on_two_nodes_make_the_run_of_one(tmp_path):
    settings = ("run.deterministic=true", "grpo.max_staleness=0", "grpo.num_steps=4")
    alone, together = tmp_path / "alone", tmp_path / "together"
    run(alone, *settings)
    with cluster_of(tmp_path, head_cpus=4) as cluster:
        cluster.add_node(**node(tmp_path, "other", 3))
        trainer = "cluster.policy_trainer={ranks: 2, zero_stage: 3}"
        run(together, *settings, f"cluster.address={cluster.address}", trainer)
    one, two = metrics(alone)[0], metrics(together)[0]
    for name in ("policy/loss", "policy/grad_norm"):
        assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-7)
    assert two["reward/mean"] == one["reward/mean"]
    check_accounts(together, num_steps=4, restarts=0)
