"""A local run is nobody else's: it listens on loopback only, and nobody else may read what it leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.privacy import readable_by_others, session_of, watched
from tests.ray.test_runs import RUN_FILE, SETTINGS

pytestmark = pytest.mark.slow

STAGES = [
    "run.stages=[sft, reward_modeling, grpo, evaluate]",
    "rewards.terms=[{kind: embedding, name: answer}, {kind: format}]",
    "grpo.num_steps=1",
    "cluster.policy_trainer.ranks=2",  # the ranks meet at a store of torch, and talk by gloo
    "cluster.rollout_workers.min=1",
    "logging.wandb=offline",
]


def test_a_local_run_listens_on_loopback_only_and_leaves_nothing_that_others_may_read(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "rl_empathy.train", str(RUN_FILE), f"run.directory={tmp_path}/runs", *STAGES]
    doors: set[str] = set()
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            run, stdout=output, stderr=output, env=os.environ | SETTINGS, cwd=tmp_path, umask=0o022
        )
        with watched(process.pid, doors):
            code = process.wait(timeout=900)
    assert code == 0, (tmp_path / "output").read_text()[-3000:]
    assert doors == set()
    record = tmp_path / "runs" / "tiny"
    assert json.loads((record / "evaluation" / "held_out.json").read_text())
    assert list(record.rglob("*.wandb"))
    assert readable_by_others(record) == []
    session = session_of(process.pid)
    assert session.parents[1].stat().st_mode & 0o077 == 0  # Ray lets everybody write in the folders below it
    assert [
        path for path in readable_by_others(session) if (session / path.partition(" ")[2]).is_file()
    ] == []
