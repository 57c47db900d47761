"""The trainer compares its log-probs with those that came with the tokens."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from rl_empathy.config.sections import OptimizerConfig
from rl_empathy.engines.agreement import compare_with_vllm
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.training import TrainingEngine
from rl_empathy.errors import ModelError
from rl_empathy.types import PolicyVersion
from tests.fakes import make_group
from tests.tiny_models import make_tiny_model

HELD = PolicyVersion(1, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def engine(folder):
    model = PolicyModel(str(folder), dtype="float32", layout="shared_prompt")
    return TrainingEngine(model, OptimizerConfig(), num_steps=1, microbatch_tokens=64)


def group_with_transformers_logprobs(folder, *, off=0.0, version=HELD):
    """As vLLM would give it: every token with its log-prob, all of them shifted by `off` nats."""
    model, group = AutoModelForCausalLM.from_pretrained(folder), make_group(version=version)
    completions = []
    for completion in group.completions:
        ids = [*group.prompt.token_ids, *completion.token_ids]
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        first = len(group.prompt.token_ids)
        values = tuple(logprobs[at - 1, ids[at]].item() + off for at in range(first, len(ids)))
        completions.append(replace(completion, rollout_logprobs=values))
    return replace(group, completions=tuple(completions))


def test_the_same_logprobs_pass(engine, folder):
    assert compare_with_vllm(engine, [group_with_transformers_logprobs(folder)], HELD, temperature=1.0)


def test_a_model_that_vllm_computes_otherwise_is_refused_by_name(engine, folder):
    group = group_with_transformers_logprobs(folder, off=0.05)
    with pytest.raises(ModelError, match=r"disagree about LlamaForCausalLM.* 5\.0e-02 nats in the mean"):
        compare_with_vllm(engine, [group], HELD, temperature=1.0)


@pytest.mark.parametrize(("off", "is_rounding"), [(0.02, True), (0.15, False)])
def test_in_bfloat16_the_trainers_own_rounding_is_the_measure(folder, off, is_rounding):
    model = PolicyModel(str(folder), dtype="bfloat16", layout="shared_prompt")
    engine = TrainingEngine(model, OptimizerConfig(), num_steps=1, microbatch_tokens=64)
    group = group_with_transformers_logprobs(folder, off=off)
    if is_rounding:
        assert compare_with_vllm(engine, [group], HELD, temperature=1.0)
    else:
        with pytest.raises(ModelError, match="disagree about LlamaForCausalLM"):
            compare_with_vllm(engine, [group], HELD, temperature=1.0)


def test_tokens_of_other_weights_tell_nothing(engine, folder):
    old = group_with_transformers_logprobs(folder, off=2.0, version=PolicyVersion(1, 2))
    assert not compare_with_vllm(engine, [old], HELD, temperature=1.0)
