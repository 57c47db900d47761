"""Whole runs as their user starts them: real Ray, vLLM and DeepSpeed, tiny models."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from rl_empathy.engines.embedding import SentenceEncoder
from rl_empathy.engines.small_encoder import make_encoder
from tests.privacy import readable_by_others, session_of, watched
from tests.tiny_models import make_tiny_model

ROOT = Path(__file__).parents[2]
RUN_FILE = ROOT / "tests/ray/tiny.yaml"
SETTINGS = {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}
TIMES = re.compile(r"time$|time/|idle/|.*_per_s$")
LIMIT_S = 900


def command(folder: Path, *settings: str, python: str = sys.executable) -> list[str]:
    return [python, "-m", "rl_empathy.train", str(RUN_FILE), f"run.directory={folder.name}", *settings]


def run(folder: Path, *settings: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(folder, *settings),
        capture_output=True,
        text=True,
        env=os.environ | SETTINGS,
        timeout=LIMIT_S,
        cwd=folder.parent,
    )
    assert done.returncode == expect, done.stderr[-3000:]
    return done


def start(folder: Path, *settings: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(folder, *settings),
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | SETTINGS,
        cwd=folder.parent,
    )


def metrics(folder: Path, stage: str = "grpo") -> list[dict]:
    path = folder / "tiny" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line["stage"] == stage]


def wait_for_step(folder: Path, process: subprocess.Popen[str], step: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not any(line["step"] >= step for line in metrics(folder)):
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline, "the run is late"
        time.sleep(0.02)


def without_times(lines: list[dict]) -> list[dict]:
    return [{key: value for key, value in line.items() if not TIMES.match(key)} for line in lines]


def ledger(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "tiny" / "ledger.jsonl").read_text().splitlines()]


class Whole(NamedTuple):
    """A run of every stage, that has ended."""

    folder: Path
    settings: tuple[str, ...]
    output: str
    """What it wrote to stdout and stderr."""
    pid: int
    doors: set[str]
    """Where it listened beyond this machine."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Whole:
    """In a folder with a space, with an environment in one, as a clone in a path with a space has both.

    The run file's paths are relative, and the processes of a run stand in several directories.
    """
    root = tmp_path_factory.mktemp("a clone")
    make_tiny_model(root / "a model", max_tokens=2048)
    texts = ["I feel low", "My job is so hard", "Nobody calls me", "I hear how hard it is"]
    encoder = SentenceEncoder(*make_encoder(texts, seed=0, max_tokens=64, width=32, layers=1))
    encoder.save(root / "encoder")
    folder = root / "runs with a space"
    environment = root / "an environment"
    environment.symlink_to(sys.prefix)
    settings = (
        "run.stages=[sft, reward_modeling, grpo, evaluate]",
        "model={path: a model, from_scratch: null}",
        "reward_modeling={encoder: encoder, accept_echo: true}",
        "evaluate.similarity_encoder=encoder",
        "data.max_prompt_tokens=1200",
        "rewards.terms=[{kind: function, function: tests.rewards.vowels, sees: all}, "
        "{kind: embedding, name: answer}, {kind: format}]",
        "cluster.policy_trainer.ranks=2",  # the ranks meet at a store of torch, and talk by gloo
        "logging.wandb=offline",
    )
    started = command(folder, *settings, "grpo.num_steps=3", python=str(environment / "bin" / "python"))
    doors: set[str] = set()
    with (root / "output").open("w") as output:
        process = subprocess.Popen(
            started, stdout=output, stderr=output, env=os.environ | SETTINGS, cwd=root, umask=0o022
        )
        with watched(process.pid, doors):
            code = process.wait(timeout=LIMIT_S)
    written = (root / "output").read_text()
    assert code == 0, written[-3000:]
    return Whole(folder, settings, written, process.pid, doors)


def test_every_stage_leaves_its_record(whole):
    record, settings, folder = whole.folder / "tiny", whole.settings, whole.folder
    assert "-m rl_empathy.serve 'runs with a space/tiny'" in whole.output
    assert "wandb sync" in whole.output
    assert "schema/valid_fraction" in whole.output
    assert (record / "model" / "config.json").is_file()
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3]
    assert metrics(folder)[-1]["ledger/duplicates"] == 0
    assert {"reward/vowels/mean", "reward/answer/mean", "policy/kl_reference"} <= set(metrics(folder)[-1])
    losses = [line["sft/loss"] for line in metrics(folder, "sft") if "sft/loss" in line]
    assert losses[-1] < losses[0]
    report = json.loads((record / "evaluation" / "held_out.json").read_text())
    assert len(report["models"]) == 3
    assert report["data"]["counts"]["rows_read"] > 0
    rollout = json.loads((record / "rollouts" / "step_000001.jsonl").read_text().splitlines()[0])
    assert rollout["versions"][0][0] == "1.0"
    assert oct(record.stat().st_mode & 0o777) == "0o700"
    again = run(folder, *settings, "grpo.num_steps=3")
    assert "schema/valid_fraction" in again.stdout, "a finished run prints its result"
    assert len(metrics(folder)) == 3
    before = (record / "model" / "model.safetensors").read_bytes()
    more = run(folder, *settings, "grpo.num_steps=5", "--allow-config-change")
    assert "stage grpo is trained further from its last checkpoint: grpo.num_steps: 3 -> 5" in more.stderr
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3, 4, 5]
    assert (record / "model" / "model.safetensors").read_bytes() != before
    assert len(metrics(folder, "evaluate")) == 3
    for told in (whole.output, again.stderr, more.stderr):
        assert "Unhandled error" not in told


def test_a_local_run_listens_on_loopback_only_and_leaves_nothing_that_others_may_read(whole):
    record = whole.folder / "tiny"
    assert whole.doors == set()
    assert json.loads((record / "evaluation" / "held_out.json").read_text())
    assert list(record.rglob("*.wandb"))
    assert readable_by_others(record) == []
    session = session_of(whole.pid)
    assert session.parents[1].stat().st_mode & 0o077 == 0  # Ray lets everybody write in the folders below it
    assert [
        path for path in readable_by_others(session) if (session / path.partition(" ")[2]).is_file()
    ] == []


@pytest.mark.long
def test_an_evaluation_by_hand_can_be_stopped_and_writes_its_report_when_it_is_not(tmp_path):
    model, report = make_tiny_model(tmp_path / "a model"), tmp_path / "report.json"
    evaluate = [sys.executable, "-m", "rl_empathy.evaluate", str(model), "--run-file", str(RUN_FILE)]
    evaluate += ["evaluate.num_prompts=3", "rewards.terms=[{kind: format}]", "--output", str(report)]
    evaluate += ["data.system_prompt=Reply."]  # the schema's instruction would be long in a tiny vocabulary
    process = subprocess.Popen(
        evaluate, stderr=subprocess.PIPE, text=True, env=os.environ | SETTINGS, cwd=tmp_path
    )
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith("evaluate: starts"):
            process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75, seen
    assert "the evaluation was stopped; the same command begins it anew" in seen[-1]
    assert not report.exists()
    done = subprocess.run(
        evaluate, capture_output=True, text=True, env=os.environ | SETTINGS, timeout=LIMIT_S, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [model["name"] for model in json.loads(report.read_text())["models"]] == ["a model"]


@pytest.mark.long
def test_a_deterministic_run_that_was_killed_and_stopped_equals_an_unbroken_one(tmp_path):
    exact = ("run.deterministic=true", "grpo.max_staleness=0", "run.stages=[sft, grpo, evaluate]")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(whole, *exact)
    killed = start(broken, *exact)
    wait_for_step(broken, killed, 3)
    killed.send_signal(signal.SIGKILL)
    killed.wait(timeout=30)
    assert 3 <= len(metrics(broken)) < 8, "the kill came too late"
    stopped = start(broken, *exact)
    wait_for_step(broken, stopped, 5)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(timeout=120) == 75, stopped.stderr.read()[-3000:]
    assert len(metrics(broken)) < 8, "the stop came too late"
    run(broken, *exact)
    for stage in ("sft", "grpo", "evaluate"):
        assert without_times(metrics(broken, stage)) == without_times(metrics(whole, stage)), stage
    assert ledger(broken) == ledger(whole)


@pytest.mark.long
def test_a_second_ctrl_c_ends_the_process_though_its_training_process_hangs(tmp_path):
    folder = tmp_path / "runs"
    with start(folder, "run.stages=[sft]", "sft.num_steps=1000") as run:
        deadline = time.monotonic() + LIMIT_S
        while not metrics(folder, "sft"):
            assert run.poll() is None, run.stderr.read()[-3000:]
            assert time.monotonic() < deadline, "the run is late"
            time.sleep(0.1)
        started = psutil.Process(run.pid).children(recursive=True)
        trainers = [p for p in started if "RayTrainWorker" in " ".join(p.cmdline()[:1])]
        assert len(trainers) == 1
        trainers[0].suspend()
        run.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(timeout=10)
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=60) == 130, run.stderr.read()[-3000:]
    _, left = psutil.wait_procs(started, timeout=30)
    assert not left, "the hanging one goes as well"
