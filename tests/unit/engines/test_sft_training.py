"""Fine-tuning: what it reports is what the saved model has."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from rl_empathy.config.sections import OptimizerConfig, SFTConfig
from rl_empathy.engines.sft_training import fine_tune, step_batches
from rl_empathy.engines.shared_prompt import Sample
from rl_empathy.engines.token_table import TokenTable
from tests.architectures import VOCABULARY, make_architecture
from tests.tiny_models import make_tiny_tokenizer


def make_samples(count, seed):
    dice = torch.Generator().manual_seed(seed)

    def ids(length):
        return torch.randint(VOCABULARY, (length,), generator=dice).tolist()

    return [Sample(ids(7), [ids(9 + index % 3)]) for index in range(count)]


def loss_of(folder, samples):
    """Mean negative log-likelihood of the completions under a saved model, by transformers alone."""
    saved = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    nll = []
    for prompt, (completion,), *_ in samples:
        with torch.no_grad():
            logits = saved(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        nll.extend(-logits.log_softmax(-1)[range(len(completion)), completion])
    return torch.stack(nll).mean().item()


@pytest.mark.parametrize("name", ["Phi", "Granite", "Gemma2", "OPT"])
def test_the_reported_held_out_loss_is_that_of_the_saved_model(name, tmp_path):
    start = make_architecture(name, tmp_path / "start")
    make_tiny_tokenizer().save_pretrained(start)
    reported, told = {}, []
    held_out = make_samples(3, seed=1)
    fine_tune(
        str(start),
        TokenTable.of(make_samples(6, seed=2)),
        TokenTable.of(held_out),
        SFTConfig(
            num_steps=3, batch_tokens=64, optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=0)
        ),
        dtype="float32",
        seed=0,
        folder=tmp_path / "sft",
        report=lambda step, metrics, checkpoint=None: reported.update(metrics),
        tell=told.append,
        should_stop=lambda: False,
    )
    assert len(told) == (name != "OPT"), "the user is told once of a slower layout"
    assert reported["sft/held_out_loss"] == pytest.approx(
        loss_of(tmp_path / "sft" / "model", held_out), abs=1e-4
    )


def test_a_training_that_is_stopped_in_its_last_step_and_goes_on_has_reported_the_saved_models_loss(tmp_path):
    reports, held_out = [], make_samples(3, seed=1)
    start = make_architecture("Llama", tmp_path / "start")
    make_tiny_tokenizer().save_pretrained(start)
    config = SFTConfig(
        num_steps=3,
        batch_tokens=64,
        evaluate_every=2,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=0),
    )
    for stops in (lambda: reports[-1][0] == 2, lambda: False):
        fine_tune(
            str(start),
            TokenTable.of(make_samples(6, seed=2)),
            TokenTable.of(held_out),
            config,
            dtype="float32",
            seed=0,
            folder=tmp_path / "sft",
            report=lambda step, metrics, checkpoint=None: reports.append((step, dict(metrics))),
            tell=lambda text: None,
            should_stop=stops,
        )
    assert [step for step, _ in reports] == [0, 1, 2, 3]
    losses = [metrics["sft/held_out_loss"] for _, metrics in reports if "sft/held_out_loss" in metrics]
    assert losses[-1] == pytest.approx(loss_of(tmp_path / "sft" / "model", held_out), abs=1e-4)
    assert losses[-1] != pytest.approx(losses[-2], abs=1e-3)


@pytest.mark.parametrize("more", [4, 7, 30])
def test_a_training_that_is_asked_for_more_steps_goes_on_with_the_batches_that_a_longer_one_has(more):
    num_tokens = TokenTable.of(make_samples(11, seed=3)).num_tokens
    short, long = (
        step_batches(num_tokens, SFTConfig(num_steps=n, batch_tokens=40), seed=0) for n in (3, more)
    )
    assert long[:3] == short
    assert len(long) == more
