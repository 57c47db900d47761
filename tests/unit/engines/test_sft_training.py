"""Fine-tuning: what it reports is what the saved model has."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from rl_empathy.config.sections import OptimizerConfig, SFTConfig
from rl_empathy.engines.sft_training import SFTData, fine_tune
from rl_empathy.engines.shared_prompt import Sample
from tests.architectures import VOCABULARY, make_architecture
from tests.tiny_models import make_tiny_tokenizer


def make_samples(count, seed):
    dice = torch.Generator().manual_seed(seed)

    def ids(length):
        return torch.randint(VOCABULARY, (length,), generator=dice).tolist()

    return [Sample(ids(7), [ids(9 + index % 3)]) for index in range(count)]


@pytest.mark.parametrize("name", ["Phi", "Granite", "Gemma2", "OPT"])
def test_the_reported_held_out_loss_is_that_of_the_saved_model(name, tmp_path):
    start = make_architecture(name, tmp_path / "start")
    make_tiny_tokenizer().save_pretrained(start)
    reported, told = {}, []
    held_out = make_samples(3, seed=1)
    fine_tune(
        str(start),
        SFTData(train=make_samples(6, seed=2), held_out=held_out),
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
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "sft" / "model", attn_implementation="eager")
    nll = []
    for prompt, (completion,) in held_out:
        with torch.no_grad():
            logits = saved(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        nll.extend(-logits.log_softmax(-1)[range(len(completion)), completion])
    assert reported["sft/held_out_loss"] == pytest.approx(torch.stack(nll).mean().item(), abs=1e-4)
