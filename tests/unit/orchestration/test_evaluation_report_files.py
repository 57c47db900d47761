"""What an evaluation leaves, and what it says of its own measures."""

import json
import re
from types import SimpleNamespace

import pytest

from rl_empathy.config.loading import dump_run_file, load_run_file
from rl_empathy.errors import ConfigError
from rl_empathy.evaluation.report import evaluate_completions
from rl_empathy.evaluation.scored import ScoredCompletion
from rl_empathy.orchestration.evaluated_models import find_models, models_of_run
from rl_empathy.orchestration.evaluation_report import (
    measure_notes,
    settings_said,
    write_completions,
    write_report,
)
from rl_empathy.types import Message, Reference, Row

SIMILARITY = "text/similarity_to_post"
ROW = Row(
    id="p",
    messages=(Message(role="user", content="I lie awake."),),
    references=(Reference(text="That sounds hard."),),
)


def run_file_of(tmp_path, *settings):
    (tmp_path / "trial.yaml").write_text("model: {from_scratch: {}}\n")
    return load_run_file(tmp_path / "trial.yaml", settings, check_paths=False)


@pytest.mark.parametrize(
    ("settings", "said", "not_said"),
    [
        ([], "shares weights with the reward model", "by the encoder"),
        (["reward_modeling.encoder=/some/encoder"], "by the encoder", "shares weights"),
        (["evaluate.similarity_encoder=/one", "reward_modeling.encoder=/one"], "shares weights", "TF-IDF"),
        (["rewards.terms=[{kind: format}]"], "by the encoder", "shares weights"),
        (["data.language=zh"], "TF-IDF", "shares weights"),
        (["data.language=zh", "evaluate.similarity_encoder=/one"], "by the encoder /one", "shares weights"),
    ],
)
def test_a_likeness_that_shares_weights_with_a_reward_says_so(tmp_path, settings, said, not_said):
    note = measure_notes(run_file_of(tmp_path, *settings))[SIMILARITY]
    assert said in note
    assert not_said not in note


def test_a_likeness_by_a_reward_model_says_so(tmp_path):
    (tmp_path / "reward_model.json").write_text("{}")
    note = measure_notes(run_file_of(tmp_path, f"evaluate.similarity_encoder={tmp_path}"))[SIMILARITY]
    assert "is a reward model: no evidence" in note


def test_the_second_encoder_that_was_none_is_gone(tmp_path):
    with pytest.raises(ConfigError, match=r"evaluate\.second_encoder: unknown key"):
        run_file_of(tmp_path, "evaluate.second_encoder=auto")


def test_it_is_said_how_every_model_was_asked_and_what_was_left_out(tmp_path):
    run_file = run_file_of(tmp_path, 'data.system_prompt=""', "evaluate.sampling.temperature=0")
    models = models_of_run(run_file, {stage: tmp_path / stage for stage in ("base", "sft")})
    rows = [ROW, Row(id="q", messages=ROW.messages)]
    said = settings_said(SimpleNamespace(run_file=run_file), models, {}, rows)
    assert said["decoding"] == "greedy (temperature 0)"
    assert "the instruction of its schema" in said["asked_with"]["base"]
    assert said["asked_with"]["sft"] == "no instruction, as it was trained"
    assert "the reward term answer, for want of a reward model" in said["left_out"]
    assert said["without_references"].startswith("1 of 2 posts")


def test_completions_are_written_with_their_post_and_references_each_model_to_its_own_file(tmp_path):
    context = SimpleNamespace(directory=SimpleNamespace(stage=lambda name: tmp_path))
    for model, text in (("x/sft", "one"), ("x_sft", "other")):
        written = ScoredCompletion(prompt_id="p", text=text, finish_reason="stop", tokens=1, reward=0.5)
        write_completions(context, model, [ROW], {"p": [written]})
    lines = [json.loads(path.read_text()) for path in sorted(tmp_path.rglob("*.jsonl"))]
    assert sorted(line["text"] for line in lines) == ["one", "other"]
    assert (lines[0]["post"], lines[0]["references"]) == ("I lie awake.", ["That sounds hard."])


def test_the_written_tables_say_what_has_to_be_said_of_a_measure_and_of_the_models(tmp_path, capsys):
    run_file = run_file_of(tmp_path)
    context = SimpleNamespace(
        run_file=run_file,
        directory=SimpleNamespace(stage=lambda name: tmp_path),
        data=SimpleNamespace(sha256="abc", counts={"near_copies": 5}),
    )
    written = ScoredCompletion(
        prompt_id="p", text="I hear you.", finish_reason="stop", tokens=4, similarity_to_post=0.5
    )
    evaluation = evaluate_completions(
        "sft", [ROW], {"p": [written]}, run_file.schema_declaration, "en", bootstrap_samples=10, seed=0
    )
    write_report(context, [evaluation], [ROW], {"decoding": "greedy"}, name="held_out", show_all=False)
    for text in (
        (tmp_path / "held_out.txt").read_text(),
        (tmp_path / "held_out_all.txt").read_text(),
        capsys.readouterr().out,
    ):
        words = re.sub(r"[│\s]+", " ", text)
        assert "shares weights with the reward model, which was trained from the same encoder" in words
        assert "decoding: greedy" in words
    assert json.loads((tmp_path / "held_out.json").read_text())["data"]["counts"] == {"near_copies": 5}


def test_it_is_said_of_a_model_that_its_run_did_not_hold_the_prompts_out(tmp_path):
    run_file, run = run_file_of(tmp_path), tmp_path / "x"
    for folder in ("logs", "sft/model"):
        (run / folder).mkdir(parents=True)
    (run / "config.yaml").write_text(dump_run_file(run_file))
    context = SimpleNamespace(run_file=run_file, data=SimpleNamespace(sha256="abc"))
    rows = [ROW, Row(id="q", messages=ROW.messages)]

    def said(*asked):
        settings = settings_said(context, find_models([run / "sft" / "model"], run_file), {}, asked)
        return settings.get("training", {}).get("x/sft")

    assert said(ROW).startswith("what its run held out is not on record")
    (run / "data.sha256").write_text("abc\n")
    (run / "split.json").write_text('{"held_out": ["p"]}')
    assert said(ROW) is None
    assert said(*rows) == "1 of 2 prompts are not among those that its run held out"
    context.data.sha256 = "another"
    assert said(ROW) == "its run read other data, which may hold these prompts"
