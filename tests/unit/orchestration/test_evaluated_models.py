"""Which models an evaluation compares: their names, and how each is asked."""

import json
from pathlib import Path
from typing import Any

import pytest
import ray
from transformers import AutoTokenizer, BertConfig, BertModel, Qwen2Config, Qwen2ForCausalLM

from rl_empathy.config.loading import dump_run_file, load_run_file
from rl_empathy.data.loading import load_data
from rl_empathy.engines.model_folders import engine_fingerprint, require_runnable
from rl_empathy.errors import ConfigError, ModelError
from rl_empathy.observability.progress import Progress
from rl_empathy.observability.run_directory import RunDirectory
from rl_empathy.orchestration import run as run_module
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.evaluated_models import find_models, models_of_run, reward_models_of
from rl_empathy.orchestration.evaluation import asked_models
from rl_empathy.orchestration.side_by_side import evaluate_command
from tests.tiny_models import make_tiny_model, permute_token_ids

TINY = Path(__file__).parents[2] / "ray" / "tiny.yaml"


def make_run(
    folder: Path, *settings: str, stages: tuple[str, ...] = ("base", "sft/model", "grpo/model")
) -> Path:
    """A run directory as a run leaves it, its models without weights."""
    (folder / "logs").mkdir(parents=True)
    source = folder.with_suffix(".yaml")
    source.write_text("model: {from_scratch: {}}\n")
    (folder / "config.yaml").write_text(dump_run_file(load_run_file(source, settings)))
    for stage in stages:
        (folder / stage).mkdir(parents=True)
        (folder / stage / "config.json").write_text("{}")
    return folder


def make_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def names(*paths: Path) -> list[str]:
    around = (paths[0], *paths[0].parents)
    run_file = load_run_file(next(folder / "config.yaml" for folder in around if (folder / "logs").is_dir()))
    return [model.name for model in find_models(paths, run_file)]


def test_the_models_of_one_run_are_called_by_their_stages(tmp_path):
    assert names(make_run(tmp_path / "x")) == ["base", "sft", "grpo"]


def test_models_in_the_layout_of_a_run_are_called_by_run_and_stage(tmp_path):
    x, y = make_run(tmp_path / "x"), make_run(tmp_path / "y")
    assert names(x / "sft" / "model", x / "grpo" / "model") == ["x/sft", "x/grpo"]
    assert names(x / "grpo" / "model", y) == ["x/grpo", "y/base", "y/sft", "y/grpo"]


def test_two_runs_of_one_name_in_different_folders_are_told_apart(tmp_path):
    one, other = make_run(tmp_path / "monday" / "x"), make_run(tmp_path / "friday" / "x")
    found = [
        model.name
        for model in find_models(
            [one / "sft" / "model", other / "sft" / "model"], load_run_file(one / "config.yaml")
        )
    ]
    assert found == ["monday/x/sft", "friday/x/sft"]


def test_two_folders_of_one_name_are_told_apart(tmp_path):
    run = make_run(tmp_path / "x")
    folders = [make_folder(tmp_path / parent / "model") for parent in ("a", "b")]
    assert [model.name for model in find_models(folders, load_run_file(run / "config.yaml"))] == [
        "a/model",
        "b/model",
    ]


def test_a_model_that_is_given_twice_is_refused(tmp_path):
    run = make_run(tmp_path / "x")
    with pytest.raises(ConfigError, match="sft/model is given twice"):
        find_models([run, run / "sft" / "model"], load_run_file(run / "config.yaml"))


def test_a_model_has_one_name_and_place_however_its_path_is_typed(tmp_path, monkeypatch):
    run = make_run(tmp_path / "x")
    run_file = load_run_file(run / "config.yaml")
    one, other = make_folder(tmp_path / "a" / "m"), make_folder(tmp_path / "b" / "c" / "m")
    monkeypatch.chdir(one)
    typed = [Path("."), Path("../../b/c/m")]
    assert [model.name for model in find_models(typed, run_file)] == ["a/m", "c/m"]
    monkeypatch.chdir(other)
    with pytest.raises(ConfigError, match="a/m is given twice"):
        find_models([one, Path("../../../a/m")], run_file)


def test_a_model_folder_with_a_config_yaml_of_its_own_is_no_run(tmp_path):
    run_file = load_run_file(make_run(tmp_path / "x") / "config.yaml")
    folder = make_folder(tmp_path / "hub")
    (folder / "config.yaml").write_text("architecture: theirs\n")
    assert [model.name for model in find_models([folder], run_file)] == ["hub"]
    assert reward_models_of([folder]) == {}


def test_every_model_is_asked_by_the_schema_and_the_instruction_of_its_own_run(tmp_path):
    plain = make_run(tmp_path / "plain", "schema=plain", "data.language=zh")
    own = make_run(tmp_path / "own", "data.system_prompt=Be kind.")
    evaluated_on = load_run_file(own / "config.yaml")
    first, second = find_models([plain / "grpo" / "model", own / "grpo" / "model"], evaluated_on)
    schema = first.run_file.schema_declaration
    assert schema.name == "plain"
    assert first.run_file.data.system_prompt == schema.instruction("zh")
    assert first.run_file.data.language == "en", "the posts and measures are those of the evaluation"
    assert second.run_file.schema_declaration.name == "chain_of_empathy"
    assert second.run_file.data.system_prompt == "Be kind."


def test_a_model_that_was_never_trained_on_the_schema_is_asked_with_its_instruction(tmp_path):
    """Without it, it could not know the form: its zero would say nothing."""
    run = make_run(tmp_path / "x", 'data.system_prompt=""')
    run_file = load_run_file(run / "config.yaml")
    instruction = run_file.schema_declaration.instruction("en")
    by_command = find_models([run, make_folder(tmp_path / "other")], run_file)
    within = models_of_run(run_file, {stage: run / stage for stage in ("base", "sft", "grpo")})
    for models in (by_command, within):
        prompts = [model.run_file.data.system_prompt for model in models]
        assert prompts[:3] == [instruction, "", ""]
        assert "the instruction of its schema" in models[0].asked_with
        assert models[1].asked_with == "no instruction, as it was trained"
    assert by_command[3].run_file.data.system_prompt == instruction


def test_the_reward_model_is_that_of_the_first_run_that_has_one(tmp_path):
    x, y = make_run(tmp_path / "x"), make_run(tmp_path / "y")
    (y / "reward_modeling" / "model").mkdir(parents=True)
    assert reward_models_of([x, y / "grpo" / "model"]) == {"reward_modeling": y / "reward_modeling" / "model"}
    assert reward_models_of([x]) == {}


def test_what_cannot_write_is_refused_with_the_reason(tmp_path):
    encoder, bare, cut = (
        tmp_path / "encoder",
        make_tiny_model(tmp_path / "bare"),
        make_tiny_model(tmp_path / "cut"),
    )
    BertModel(
        BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(encoder)
    with pytest.raises(ModelError, match="is a BertModel, which writes no text"):
        require_runnable(encoder, max_tokens=8)
    with pytest.raises(
        ModelError, match="takes 1024 tokens at most, and prompt and completion may have 1100"
    ):
        require_runnable(bare, max_tokens=1100)
    (bare / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights \(\*\.safetensors\)"):
        require_runnable(bare, max_tokens=8)
    mute = tmp_path / "mute"
    Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
    ).save_pretrained(mute)
    with pytest.raises(ModelError, match=r"mute has no tokenizer \(tokenizer\.json"):
        require_runnable(mute, max_tokens=8)
    larger = AutoTokenizer.from_pretrained(cut)
    larger.add_tokens(["<new>"])
    larger.save_pretrained(cut)
    with pytest.raises(ModelError, match="the tokenizer is another model's"):
        require_runnable(cut, max_tokens=8)


def test_an_engine_fits_another_export_of_its_model_but_not_other_token_ids_or_shapes(tmp_path):
    model, permuted = make_tiny_model(tmp_path / "a"), tmp_path / "b"
    trained = make_tiny_model(tmp_path / "c", seed=1)
    assert engine_fingerprint(model) == engine_fingerprint(trained)
    assert engine_fingerprint(model) != engine_fingerprint(permute_token_ids(model, permuted))
    assert engine_fingerprint(model) != engine_fingerprint(make_tiny_model(tmp_path / "d", num_layers=1))


def test_an_engine_does_not_fit_a_model_whose_words_have_other_ids(tmp_path):
    """Though its shape, its special tokens and its end are the same."""
    model, other = make_tiny_model(tmp_path / "a"), make_tiny_model(tmp_path / "b")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert engine_fingerprint(model) != engine_fingerprint(other)


def test_every_model_is_asked_in_the_tokens_of_its_own_tokenizer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = make_tiny_model(tmp_path / "model")
    permuted = permute_token_ids(model, tmp_path / "permuted")
    run_file = load_run_file(TINY, ["data.max_prompt_tokens=990"])
    absent: Any = None
    with Progress() as progress:
        directory = RunDirectory.open(run_file, fresh=False, allow_config_change=False)
        data = load_data(run_file.data, seed=0)
        context = RunContext(run_file=run_file, directory=directory, data=data, log=absent, progress=progress)
        both = asked_models(context, find_models([model, permuted], run_file))
        directory.close()
    first, second = (
        {row: AutoTokenizer.from_pretrained(one.model.folder).decode(ids) for row, ids in one.prompts.items()}
        for one in both
    )
    assert first == second
    assert both[0].prompts != both[1].prompts


def test_a_model_that_cannot_be_compared_is_refused_before_anything_starts(tmp_path, monkeypatch):
    def join_cluster(*_):
        raise AssertionError("something starts")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "join_cluster", join_cluster)
    run_file = load_run_file(TINY, ["data.max_prompt_tokens=990"])
    good, silent = make_tiny_model(tmp_path / "good"), make_tiny_model(tmp_path / "silent")
    (silent / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"silent cannot be compared: .*chat.template"):
        evaluate_command([good, silent], run_file, None)
    short = make_tiny_model(tmp_path / "short", max_tokens=64)
    with pytest.raises(ModelError, match=r"short cannot be compared: .*short takes 64 tokens at most"):
        evaluate_command([good, short], run_file, None)
    assert not ray.is_initialized()
    rude = make_tiny_model(tmp_path / "rude")
    (rude / "chat_template.jinja").write_text("{{ raise_exception('no system role here') }}")
    with pytest.raises(ModelError, match=r"rude cannot be compared: (?s:.*): no system role here"):
        evaluate_command([good, rude], run_file, None)
    with pytest.raises(
        ModelError, match="good cannot be compared: none of the 16 held-out prompts can be used"
    ):
        evaluate_command([good], load_run_file(TINY, ["data.max_prompt_tokens=40"]), None)


def test_a_model_of_no_run_whose_template_refuses_the_instruction_is_asked_with_it_in_the_users_message(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    stranger = make_tiny_model(tmp_path / "stranger")
    own = (stranger / "chat_template.jinja").read_text()
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    (stranger / "chat_template.jinja").write_text(refusal + own)
    overrides = ["data.max_prompt_tokens=990", "data.system_prompt_role=user"]
    run_file = load_run_file(TINY, overrides)
    (model,) = find_models([stranger], run_file, overrides)
    absent: Any = None
    with Progress() as progress:
        directory = RunDirectory.open(run_file, fresh=False, allow_config_change=False)
        data = load_data(run_file.data, seed=0)
        context = RunContext(run_file=run_file, directory=directory, data=data, log=absent, progress=progress)
        (asked,) = asked_models(context, [model])
        directory.close()
        tokenizer = AutoTokenizer.from_pretrained(asked.model.folder)
        text = tokenizer.decode(next(iter(asked.prompts.values())))
    assert asked.model.folder == tmp_path / "runs" / "tiny" / "evaluation" / "fitted" / "stranger"
    assert text.startswith("<|im_start|>user\n" + run_file.schema_declaration.instruction("en")[:40])
    assert model.folder == stranger  # where it was is left as it was
    assert (stranger / "chat_template.jinja").read_text() == refusal + own
