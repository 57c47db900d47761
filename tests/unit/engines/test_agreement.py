"""vLLM and the trainer on the same weights, architecture by architecture, before and after a publish."""

import json

import pytest

from tests.programs import run_program

NAMES = (
    "Llama, untied, biases",
    "Qwen3",
    "Mistral, window of 8",
    "Gemma2",
    "Gemma3 text",
    "Granite",
    "Cohere",
    "OPT",
    "GPT2",
    "Phi",
    "OLMo2",
    "StableLM",
)


@pytest.fixture(scope="module")
def found():
    done = run_program("tests.unit.engines.agreement", *NAMES, timeout=1200)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["name"]: line for line in lines}


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_vllm_has_the_trainers_logprobs_before_and_after_a_publish(found, name):
    one = found[name]
    assert one["before"] < 1e-4
    assert one["moved"] > 0.1, "the updates changed nothing that a publish would have to bring"
    assert one["after"] < 1e-4
