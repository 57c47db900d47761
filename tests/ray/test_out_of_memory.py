"""Real runs whose trainer runs out of memory in its first update: half a micro-batch once, and then the end."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.ray.test_runs import LIMIT_S, ROOT, SETTINGS, command, ledger, metrics, run, without_times

FAULT = '''
"""Python imports this at the start of every process: the training engine runs out of memory in its first updates."""
import importlib.abc, importlib.util, os, sys
from pathlib import Path

import psutil

MODULE = "rl_empathy.engines.training"


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            backward = module.TrainingEngine._backward

            def starved(engine, samples, *rest):
                stage = "grpo" if "PolicyTrainer" in psutil.Process().cmdline()[0] else "sft"
                left = sorted(Path(os.environ["STARVED"]).glob(f"{stage}_*"))
                result = backward(engine, samples, *rest)
                if left:
                    left[0].unlink()
                    raise MemoryError("Unable to allocate 9.00 GiB")
                return result

            module.TrainingEngine._backward = starved

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
'''
EXACT = (
    "run.deterministic=true",
    "grpo.max_staleness=0",
    "cluster.rollout_workers.min=1",
    "grpo.num_steps=3",
    "grpo.microbatch_tokens=640",
    "run.stages=[sft, grpo]",
    "sft.batch_tokens=1280",
    "sft.num_steps=3",
    "sft.microbatch_tokens=640",
    "sft.validity_prompts=0",
)


def starved(folder: Path, faults: Sequence[str], *settings: str) -> subprocess.CompletedProcess[str]:
    """A run in which the first updates of the stages named run out of memory, each as often as it is named."""
    left = folder.parent / f"faults of {folder.name}"
    left.mkdir(exist_ok=True)
    (left / "sitecustomize.py").write_text(FAULT)
    for number, stage in enumerate(faults):
        (left / "left").mkdir(exist_ok=True)
        (left / "left" / f"{stage}_{number}").touch()
    settings_of = SETTINGS | {"PYTHONPATH": f"{left}:{ROOT}", "STARVED": str(left / "left")}
    return subprocess.run(
        command(folder, *settings), capture_output=True, text=True, env=os.environ | settings_of,
        timeout=LIMIT_S, cwd=folder.parent,
    )  # fmt: skip


def record(folder: Path) -> dict:
    return json.loads((folder / "tiny" / "memory.json").read_text())


@pytest.mark.long
def test_with_half_a_micro_batch_the_metrics_are_those_of_an_unbroken_run(tmp_path):
    """The first update of sft runs out of memory, and the first one of grpo."""
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    run(whole, *EXACT)
    done = starved(halved, ["sft", "grpo"], *EXACT)
    assert done.returncode == 0, done.stderr[-3000:]
    for key in ("sft.microbatch_tokens", "grpo.microbatch_tokens"):
        assert done.stderr.count(f"{key} is halved (640 -> 320)") == 1
        assert record(halved)["used"][key] == 320
    assert metrics(halved)[0]["policy/microbatch_tokens"] == 320
    for stage in ("sft", "grpo"):
        pairs = zip(without_times(metrics(halved, stage)), without_times(metrics(whole, stage)), strict=True)
        for mine, theirs in pairs:
            assert mine.keys() == theirs.keys()
            kept = [
                key for key in mine if not key.startswith(("fleet/", "stage")) and "microbatch" not in key
            ]
            assert [mine[key] for key in kept] == pytest.approx(
                [theirs[key] for key in kept], rel=1e-3, abs=1e-5
            )
    assert [(line["epoch"], line["index"], line["state"]) for line in ledger(halved)] == [
        (line["epoch"], line["index"], line["state"]) for line in ledger(whole)
    ]


@pytest.mark.long
def test_the_second_time_the_run_ends_with_3_and_the_same_command_resumes_it(tmp_path):
    folder = tmp_path / "runs"
    settings = ("run.stages=[grpo]", "grpo.num_steps=2")
    ended = starved(folder, ["grpo", "grpo"], *settings)
    assert ended.returncode == 3, ended.stderr[-3000:]
    assert "policy_trainer ran out of memory a second time" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert record(folder)["ran_out"].keys() == {"policy_trainer"}
    run(folder, *settings)
    assert [line["step"] for line in metrics(folder)] == [1, 2]
