"""The shared-prompt layout against padded rows, the oracle: same log-probs, same gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from rl_empathy.algorithms.logprobs import token_logprobs
from rl_empathy.engines.microbatches import fed_tokens, split_by_tokens
from rl_empathy.engines.shared_prompt import ATTENTION, Sample, pack, register

VOCABULARY = 61


def make_model(key_value_heads: int = 2) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=key_value_heads, attn_implementation="sdpa",
        )
    )  # fmt: skip


def make_samples(*shapes: tuple[int, tuple[int, ...]]) -> list[Sample]:
    generator = torch.Generator().manual_seed(1)

    def ids(count: int) -> list[int]:
        return torch.randint(VOCABULARY, (count,), generator=generator).tolist()

    return [Sample(ids(prompt), [ids(length) for length in completions]) for prompt, completions in shapes]


def padded_logprobs(model, samples):
    """One row a completion, the prompt before each, plain attention."""
    model.set_attn_implementation("sdpa")
    every = []
    for sample in samples:
        for completion in sample.completions:
            ids = torch.tensor([[*sample.prompt, *completion]])
            hidden = model.model(ids).last_hidden_state[0, len(sample.prompt) - 1 : -1]
            every.append(
                token_logprobs(hidden, model.lm_head.weight, torch.tensor(completion), temperature=0.9)[0]
            )
    return torch.cat(every)


def row_logprobs(model, samples, layout):
    row = pack(samples, layout=layout)
    if layout == "shared_prompt":
        register()
        model.set_attn_implementation(ATTENTION)
        shape = {"row": row}
    else:
        model.set_attn_implementation("sdpa")
        shape = {}
    hidden = model.model(
        row.input_ids, position_ids=row.position_ids, use_cache=False, **shape
    ).last_hidden_state
    return token_logprobs(hidden[0, row.predictors], model.lm_head.weight, row.targets, temperature=0.9)[0]


def loss_and_gradient(model, logprobs):
    weights = torch.linspace(-1, 2, len(logprobs))
    loss = (weights * logprobs).sum()
    model.zero_grad()
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("layout", ["shared_prompt", "packed"])
@pytest.mark.parametrize("key_value_heads", [4, 2, 1])
@pytest.mark.parametrize(
    "shapes",
    [
        [(7, (5, 3, 9))],
        [(1, (1, 1))],
        [(6, (4,)), (3, (2, 8)), (9, (1, 5, 5, 2))],
    ],
    ids=["ragged", "one token", "several prompts"],
)
def test_the_layouts_give_the_loss_and_gradients_of_padded_rows(shapes, key_value_heads, layout):
    model, samples = make_model(key_value_heads), make_samples(*shapes)
    loss, gradient = loss_and_gradient(model, row_logprobs(model, samples, layout))
    wanted, wanted_gradient = loss_and_gradient(model, padded_logprobs(model, samples))
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert (gradient - wanted_gradient).norm() / wanted_gradient.norm() < 1e-5


def test_completions_do_not_see_each_other():
    model = make_model()
    (sample,) = make_samples((5, (4, 4)))
    other = Sample(sample.prompt, [sample.completions[0], [0, 0, 0, 0]])
    first = row_logprobs(model, [sample], "shared_prompt")[:4]
    assert torch.equal(first, row_logprobs(model, [other], "shared_prompt")[:4])


def test_a_prompt_is_fed_once_and_last_tokens_are_not_fed():
    row = pack([Sample([1, 2, 3], [[4, 5], [6, 7, 8]])], layout="shared_prompt")
    assert row.input_ids.tolist() == [[1, 2, 3, 4, 6, 7]]
    assert row.position_ids.tolist() == [[0, 1, 2, 3, 3, 4]]
    assert row.predictors.tolist() == [2, 3, 2, 4, 5]
    assert row.targets.tolist() == [4, 5, 6, 7, 8]


@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 9), st.lists(st.integers(1, 7), min_size=1, max_size=5)),
        min_size=1,
        max_size=5,
    ),
    max_tokens=st.integers(1, 60),
)
def test_micro_batches_hold_every_completion_in_order_within_the_budget(shapes, max_tokens):
    samples = make_samples(*shapes)
    for layout in ("shared_prompt", "packed", "one_sequence"):
        batches = split_by_tokens(samples, max_tokens=max_tokens, layout=layout)
        flat = [(s.prompt, c) for batch in batches for s in batch for c in s.completions]
        assert flat == [(s.prompt, c) for s in samples for c in s.completions]
        for batch in batches:
            cost = sum(fed_tokens(sample, layout) for sample in batch)
            count = sum(len(sample.completions) for sample in batch)
            assert count == 1 or (cost <= max_tokens and layout != "one_sequence")
