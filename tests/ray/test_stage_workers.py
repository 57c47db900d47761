"""Stages sft and reward_modeling in several workers of Ray Train, as their user starts them."""

import os
import pty
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.ray.test_runs import SETTINGS, command, metrics, run, start

STAGES = ("run.stages=[sft,reward_modeling]", "sft.validity_prompts=0", "reward_modeling.accept_echo=true")
WATCHED = ("sft/loss", "sft/grad_norm", "sft/held_out_loss", "reward_model/loss", "reward_model/grad_norm")


def workers(zero_stage: int) -> str:
    return f"cluster.stage_worker={{ranks: 2, zero_stage: {zero_stage}, num_cpus: 1}}"


def numbers(folder: Path) -> dict[str, list[float]]:
    lines = [*metrics(folder, "sft"), *metrics(folder, "reward_modeling")]
    return {name: [line[name] for line in lines if name in line] for name in WATCHED}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    folder = tmp_path_factory.mktemp("alone") / "runs"
    run(folder, *STAGES)
    return numbers(folder)


@pytest.mark.long
@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_two_workers_train_as_one_does(
    zero_stage: int, alone: dict[str, list[float]], tmp_path: Path
) -> None:
    run(tmp_path / "runs", *STAGES, workers(zero_stage))
    found = numbers(tmp_path / "runs")
    for name, wanted in alone.items():
        assert wanted
        assert found[name][0] == pytest.approx(wanted[0], rel=1e-5)
        assert found[name] == pytest.approx(wanted, rel=1e-2)


@pytest.mark.long
def test_a_stage_starts_from_a_terminal(tmp_path: Path) -> None:
    """What draws there cannot be sent to a worker."""
    screen, terminal = pty.openpty()
    running = subprocess.Popen(
        command(tmp_path / "runs", *STAGES, "run.stages=[sft]"),
        stdout=terminal,
        stderr=terminal,
        env=os.environ | SETTINGS | {"TERM": "xterm"},
        cwd=tmp_path,
    )
    os.close(terminal)
    limit = threading.Timer(300, running.kill)
    limit.start()
    shown = b""
    with suppress(OSError):  # the terminal's other end is closed
        while some := os.read(screen, 4096):
            shown += some
    limit.cancel()
    assert running.wait(timeout=60) == 0, shown[-3000:]
    assert b"sft: done" in shown


def train_workers(driver: psutil.Process) -> list[psutil.Process]:
    found = []
    for process in driver.children(recursive=True):
        try:
            if any("RayTrainWorker" in part for part in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.long
def test_when_one_of_two_workers_is_killed_both_go_on_from_their_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    running = start(
        folder, *STAGES, "run.stages=[sft]", workers(3), "sft.num_steps=24", "sft.checkpoint_every=3"
    )
    deadline = time.monotonic() + 300
    while not (folder / "tiny/sft/step_000006").exists():
        assert time.monotonic() < deadline
        assert running.poll() is None, running.communicate()[1][-3000:]
        time.sleep(0.05)
    found = train_workers(psutil.Process(running.pid))
    assert len(found) == 2
    found[1].kill()
    told = running.communicate(timeout=300)[1]
    assert running.returncode == 0, told[-3000:]
    assert "Starting sft anew (restart 1)" in told
    assert [line["step"] for line in metrics(folder, "sft")] == list(range(25))
    assert (folder / "tiny/sft/worker_1.log").exists()
