"""Models side by side, as a user compares them: real Ray and vLLM, tiny models of several architectures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import GPTNeoXConfig, Qwen3Config

from rl_empathy.schema import PLAIN
from tests.tiny_models import make_model_of, make_parrot_model, permute_token_ids

ROOT = Path(__file__).parents[2]
RUN_FILE = ROOT / "tests/ray/tiny.yaml"
LIMIT_S = 1800


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """One command over four models: a Llama, the same with other token ids, a Qwen3 and a GPT-NeoX."""
    folder = tmp_path_factory.mktemp("models side by side")
    llama = make_parrot_model(folder / "llama", "You feel lost at work.", schema=PLAIN)
    models = [
        llama,
        permute_token_ids(llama, folder / "permuted"),
        make_model_of(folder / "qwen", Qwen3Config, vocab_size=400, head_dim=32, num_key_value_heads=1),
        make_model_of(folder / "neox", GPTNeoXConfig, vocab_size=450, rotary_pct=1.0),
    ]
    report = folder / "report.json"
    settings = [
        "evaluate.sampling.temperature=0",
        "evaluate.num_prompts=3",
        "schema=plain",
        "cluster.rollout_workers.min=1",
    ]
    settings += [
        "rewards.terms=[{kind: function, function: tests.rewards.vowels, sees: all}]",
        "cluster.deadlines.start_s=600",
    ]
    settings += ["data.max_prompt_tokens=980"]  # tiny vocabularies make long prompts
    command = [sys.executable, "-m", "rl_empathy.evaluate", *map(str, models), *settings]
    done = subprocess.run(
        [*command, "--run-file", str(RUN_FILE), "--output", str(report)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=LIMIT_S,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done, json.loads(report.read_text())


def measures(report, name):
    return next(model["measures"] for model in report["models"] if model["name"] == name)


def test_a_model_whose_token_ids_are_permuted_gets_equal_values(compared):
    _, report = compared
    assert measures(report, "permuted") == measures(report, "llama")
    assert measures(report, "permuted")["schema/valid_fraction"]["mean"] == 1


def test_three_architectures_with_vocabularies_of_their_own_stand_in_one_table(compared):
    done, report = compared
    assert [model["name"] for model in report["models"]] == ["llama", "permuted", "qwen", "neox"]
    assert [model["num_prompts"] for model in report["models"]] == [3, 3, 3, 3]
    assert all(name in done.stdout for name in ("llama", "permuted", "qwen", "neox"))
    texts = [(measures(report, name)["reward/mean"]["mean"]) for name in ("llama", "qwen", "neox")]
    assert len(set(texts)) == 3, "each was written by another model"


def test_greedy_decoding_writes_one_completion_a_prompt(compared):
    _, report = compared
    assert [model["num_completions"] for model in report["models"]] == [3, 3, 3, 3]
