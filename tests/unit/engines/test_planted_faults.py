"""Models that were built to deceive the trainer: each is computed right in another way, or refused by name."""

import json
from contextlib import nullcontext

import pytest
import torch
from torch.nn.functional import dropout
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MixtralConfig,
)

from rl_empathy.config.sections import OptimizerConfig
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.shared_prompt import Sample
from rl_empathy.engines.training import TrainingEngine
from rl_empathy.errors import ModelError
from tests.architectures import NOT_CHECKPOINTED, make_architecture
from tests.objectives import OfLogprobs
from tests.tiny_models import make_tiny_model, make_tiny_tokenizer

SAMPLES = [Sample([11, 12, 13], [[14, 15, 16], [17, 18]]), Sample([21, 22], [[23, 24, 25]])]


class TwistedConfig(LlamaConfig):
    model_type = "twisted_llama"
    fault: str = ""


class TwistedBody(LlamaModel):
    def forward(self, input_ids, **arguments):
        output = super().forward(input_ids, **arguments)
        hidden = output.last_hidden_state
        if self.config.fault == "leak":
            hidden = hidden + 0.1 * hidden.cumsum(1)  # a recurrent state that knows nothing of rows
        if self.config.fault == "dropout":
            hidden = dropout(hidden, 0.1, training=self.training)
        if self.config.fault == "noise":
            hidden = dropout(hidden, 0.1, training=True)
        if self.config.fault == "future":
            hidden = hidden + 0.1 * hidden.mean(1, keepdim=True)
        output.last_hidden_state = hidden
        return output


class TwistedModel(LlamaForCausalLM):
    config_class = TwistedConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = TwistedBody(config)
        if config.fault in ("lost buffer", "kept buffer"):
            shift = torch.linspace(-1, 1, config.vocab_size)
            self.register_buffer("shift", shift, persistent=config.fault == "kept buffer")
        if config.fault == "idle weight":
            self.idle = torch.nn.Parameter(torch.ones(3))
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        if module is self and "shift" in self._non_persistent_buffers_set:
            self.shift.copy_(torch.linspace(-1, 1, len(self.shift)))

    def forward(self, *arguments, **named):
        exactly = torch.autocast("cpu", enabled=False) if self.config.fault == "exact" else nullcontext()
        with exactly:
            output = super().forward(*arguments, **named)
        if self.config.fault == "head":
            output.logits = output.logits * 0.5
        if hasattr(self, "shift"):
            output.logits = output.logits + self.shift
        return output


AutoConfig.register(TwistedConfig.model_type, TwistedConfig)
AutoModelForCausalLM.register(TwistedConfig, TwistedModel)


def make_twisted_model(folder, fault, *, spread=0.2):
    tokenizer = make_tiny_tokenizer()
    config = TwistedConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, fault=fault, initializer_range=spread,
    )  # fmt: skip
    torch.manual_seed(0)
    TwistedModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def transformers_logprobs(folder):
    """What transformers gives for each sequence alone, without any code of ours."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    parts = []
    with torch.no_grad():
        for prompt, completions, *_ in SAMPLES:
            for completion in completions:
                logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
                parts.append(logits.log_softmax(-1)[range(len(completion)), completion])
    return torch.cat(parts)


@pytest.mark.parametrize("fault", ["head", "leak"])
@pytest.mark.parametrize("wanted", ["shared_prompt", "packed"])
def test_a_wrong_head_or_a_leak_between_sequences_leads_to_the_models_own_forward_pass(
    tmp_path, caplog, fault, wanted
):
    folder = make_twisted_model(tmp_path, fault)
    model = PolicyModel(folder, dtype="float32", layout=wanted)
    assert model.layout == "one_sequence"
    assert "TwistedModel is computed in the layout one_sequence: " in caplog.text
    with torch.no_grad():
        torch.testing.assert_close(model.logprobs(SAMPLES), transformers_logprobs(folder))


def test_a_layout_that_strays_farther_in_bfloat16_than_the_models_own_forward_pass_is_not_used(tmp_path):
    folder = make_twisted_model(tmp_path, "exact", spread=1.0)  # large logits, which bfloat16 rounds coarsely
    assert PolicyModel(folder, dtype="float32", layout="shared_prompt").layout == "shared_prompt"
    model = PolicyModel(folder, dtype="bfloat16", layout="shared_prompt")
    assert model.layout == "one_sequence"
    assert "mean error of log-probs in bfloat16" in str(model.note)
    with torch.no_grad():
        torch.testing.assert_close(model.logprobs(SAMPLES), transformers_logprobs(folder))


def test_dropout_that_only_training_shows_is_refused_where_the_model_is_in_training_mode(tmp_path):
    folder = make_twisted_model(tmp_path, "dropout")
    assert PolicyModel(folder, dtype="float32", layout="packed").layout == "packed"
    with pytest.raises(ModelError, match="TwistedModel is not trained here"):
        PolicyModel(folder, dtype="float32", layout="packed", gradient_checkpointing=True)


def test_a_model_that_gives_other_logprobs_each_time_is_refused(tmp_path):
    folder = make_twisted_model(tmp_path, "noise")
    with pytest.raises(ModelError, match="TwistedModel gives other log-probs each time"):
        PolicyModel(folder, dtype="float32", layout="shared_prompt")


def test_a_model_that_sees_later_tokens_is_refused(tmp_path):
    folder = make_twisted_model(tmp_path, "future")
    with pytest.raises(ModelError, match="TwistedModel sees the tokens that it is to predict"):
        PolicyModel(folder, dtype="float32", layout="shared_prompt", frozen=True)


def make_engine(folder):
    model = PolicyModel(folder, dtype="float32", layout="shared_prompt")
    return TrainingEngine(model, OptimizerConfig(), num_steps=10, microbatch_tokens=64)


def test_an_update_is_made_without_dropout(tmp_path):
    engine = make_engine(make_twisted_model(tmp_path, "dropout"))
    expected = engine.logprobs(SAMPLES, temperature=1.0).sum().item()
    assert engine.update(OfLogprobs(SAMPLES, lambda logprobs: logprobs.sum())).loss == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize(
    ("config", "dropped"),
    [
        (GPT2Config, {"n_embd": 32, "n_layer": 1, "n_head": 2, "attn_pdrop": 0.5, "resid_pdrop": 0.5}),
        (
            LlamaConfig,
            {
                "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
                "attention_dropout": 0.5,
            },
        ),
    ],
)  # fmt: skip
def test_the_dropout_of_a_configuration_is_off_in_training_mode(tmp_path, config, dropped):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config(vocab_size=96, **dropped)).save_pretrained(tmp_path)
    model = PolicyModel(str(tmp_path), dtype="float32", layout="packed", gradient_checkpointing=True)
    assert model.language_model.training
    with torch.no_grad():
        torch.testing.assert_close(model.logprobs(SAMPLES), transformers_logprobs(tmp_path))


def test_a_buffer_that_the_files_lose_is_found_at_the_export_and_nothing_is_left(tmp_path):
    folder = make_twisted_model(tmp_path / "start", "lost buffer")
    engine = make_engine(folder)
    engine.model.language_model.shift[:50] = 3.0
    with pytest.raises(
        ModelError, match=r"TwistedModel: the saved model is not the one that was to be saved, .* \d+"
    ):
        engine.export(tmp_path / "model", tokenizer_from=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


def test_a_buffer_is_trained_with_published_kept_in_checkpoints_and_exported(tmp_path):
    folder = make_twisted_model(tmp_path / "start", "kept buffer")
    engine = make_engine(folder)
    engine.model.language_model.shift[:50] = 3.0
    engine.export(tmp_path / "model", tokenizer_from=folder)
    with torch.no_grad():
        torch.testing.assert_close(
            engine.logprobs(SAMPLES, temperature=1.0), transformers_logprobs(tmp_path / "model")
        )
    assert engine.weights()["shift"].tolist()[:50] == [3.0] * 50
    resumed = make_engine(folder)
    resumed.load(engine.weights(), engine.optimizer_state())
    assert torch.equal(resumed.model.language_model.shift, engine.model.language_model.shift)


def test_an_export_that_fails_leaves_the_one_before_alone(tmp_path):
    folder = make_twisted_model(tmp_path / "start", "lost buffer")
    engine = make_engine(folder)
    engine.export(tmp_path / "model", tokenizer_from=folder)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    engine.model.language_model.shift[:50] = 3.0
    with pytest.raises(ModelError):
        engine.export(tmp_path / "model", tokenizer_from=folder)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_an_encoder_decoder_is_refused_by_name(tmp_path):
    path = make_tiny_model(tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"is_encoder_decoder": True}))
    with pytest.raises(ModelError, match=r"LlamaForCausalLM in .* is an encoder-decoder"):
        PolicyModel(str(tmp_path), dtype="float32", layout="shared_prompt")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MixtralConfig(), "mixtral in .* is a mixture of experts, which is not trained here"),
        (Gemma3Config(), "gemma3 in .* holds more than a language model; save its language model alone"),
    ],
)
def test_a_kind_of_model_that_is_not_trained_here_is_refused_by_name(tmp_path, config, reason):
    config.save_pretrained(tmp_path)  # refused before any weight is read
    with pytest.raises(ModelError, match=reason):
        PolicyModel(str(tmp_path), dtype="float32", layout="shared_prompt")


def test_weights_that_get_no_gradient_are_refused_by_name_unless_they_are_frozen(tmp_path):
    folder = make_twisted_model(tmp_path, "idle weight")
    with pytest.raises(ModelError, match=r"1 of its tensors, among them idle, have no part in its log-probs"):
        PolicyModel(folder, dtype="float32", layout="shared_prompt")
    model = PolicyModel(folder, dtype="float32", layout="shared_prompt", frozen=True)
    assert model.layout == "shared_prompt"


def test_the_comparison_leaves_no_gradient_behind(tmp_path):
    model = PolicyModel(make_twisted_model(tmp_path, ""), dtype="float32", layout="shared_prompt")
    assert [parameter.grad for parameter in model.parameters()] == [None] * len(list(model.parameters()))


def test_files_that_lack_a_tensor_are_refused_by_its_name(tmp_path):
    folder = make_tiny_model(tmp_path, tied=False)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.model.save_pretrained(folder)  # the body alone: no head
    with pytest.raises(ModelError, match=r"lack 1 of the model's tensors, among them lm_head\.weight"):
        PolicyModel(str(folder), dtype="float32", layout="shared_prompt")


@pytest.mark.parametrize(
    ("capped", "layout"),
    [({"attn_logit_softcapping": 50.0}, "packed"), ({"final_logit_softcapping": 30.0}, "one_sequence")],
)
def test_a_soft_cap_is_obeyed_although_the_small_numbers_of_a_young_model_do_not_show_it(
    tmp_path, capped, layout
):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma2Config(
        vocab_size=96, num_key_value_heads=1, head_dim=16, layer_types=["full_attention"] * 2,
        **sizes, **({"attn_logit_softcapping": None, "final_logit_softcapping": None} | capped),
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = PolicyModel(str(tmp_path), dtype="float32", layout="shared_prompt")
    assert model.layout == layout
    assert "soft-capped" in str(model.note)


@pytest.mark.parametrize("name", ["Llama, dynamic rotary", "Phi3, long rotary"])
def test_a_rotary_embedding_that_follows_the_length_is_computed_one_sequence_a_row(tmp_path, name):
    """The short input of the comparison does not reach the length from which it changes."""
    model = PolicyModel(str(make_architecture(name, tmp_path)), dtype="float32", layout="shared_prompt")
    assert model.layout == "one_sequence"
    assert "follows the longest sequence of a row" in str(model.note)


@pytest.mark.parametrize("name", sorted(NOT_CHECKPOINTED))
def test_gradient_checkpointing_that_a_family_lacks_is_refused_by_its_name(tmp_path, name):
    folder = str(make_architecture(name, tmp_path))
    with pytest.raises(
        ModelError, match=r"(LMHeadModel|ForCausalLM) has no gradient checkpointing in transformers; set"
    ):
        PolicyModel(folder, dtype="float32", layout="shared_prompt", gradient_checkpointing=True)


def test_a_model_that_transformers_cannot_run_on_a_short_input_is_refused_by_name(tmp_path):
    config = GPT2Config(vocab_size=96, n_embd=32, n_layer=1, n_head=2, n_positions=16)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel is not trained here, .* IndexError"):
        PolicyModel(str(tmp_path), dtype="float32", layout="shared_prompt")


def test_files_with_a_head_beside_a_configuration_that_ties_it_are_refused(tmp_path):
    folder = make_tiny_model(tmp_path, tied=False)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))
    with pytest.raises(ModelError, match=r"LlamaForCausalLM in .* has a head of its own in its files"):
        PolicyModel(str(folder), dtype="float32", layout="shared_prompt")
