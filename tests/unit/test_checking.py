"""The check reads what a run would trip over, and refuses it with the way out."""

import json
import os
from pathlib import Path

import pytest

from rl_empathy.checking import print_check
from rl_empathy.config.loading import read_run_file
from rl_empathy.errors import ConfigError, DataError, ResourceError
from tests.tiny_models import make_tiny_model

ROWS = [
    {
        "id": f"row-{n}",
        "prompt": f"Since the {word} I lie awake, and nobody asks me why.",
        "references": [{"text": f"The {word} must weigh on you, and nights are long alone."}],
    }
    for n, word in enumerate(["storm", "exam", "move", "funeral", "wedding", "fire"])
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Path("run.yaml").write_text("model: {from_scratch: {}}\ndata: {train: rows.jsonl, held_out_prompts: 1}\n")


def checked(*settings: str, show: int = 0) -> None:
    print_check(*read_run_file("run.yaml", settings), show=show)


def test_the_data_are_read_and_examples_shown_as_the_model_is_taught_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    checked(show=2)
    printed = capsys.readouterr().out
    assert "# data: rows.jsonl: 5 prompts to train on, 1 held out (6 rows_read)" in printed
    assert printed.count("# example, row row-") == 2
    assert "#   system:    You are an empathetic counsellor." in printed
    assert "#   target:    <empathy_think><L1>" in printed


def test_lengths_in_tokens_are_told_where_the_tokenizer_is_at_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tiny_model(tmp_path / "tiny")
    long = ROWS[0] | {"id": "long", "prompt": "I lie awake. " * 200}
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, long]))
    settings = ("model={from_scratch: null, path: tiny}", "schema=plain")
    checked(*settings, "data.max_prompt_tokens=500")
    printed = capsys.readouterr().out
    assert "# warning: 1 of 7 prompts are longer than data.max_prompt_tokens (500)" in printed
    with pytest.raises(DataError, match=r"every prompt is longer than data\.max_prompt_tokens \(8\)"):
        checked(*settings, "data.max_prompt_tokens=8")


def test_data_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(
        DataError, match=r'rows\.jsonl:1: there is no field "post"; there are id, prompt, references'
    ):
        checked("data.format=columns", "data.columns={prompt: post}")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "is no model folder: there is no config.json; it is empty"),
        ({"weights.bin": "x"}, "there is no config.json; it holds weights.bin"),
        (
            {"adapter_config.json": '{"base_model_name_or_path": "some/model"}'},
            "is an adapter of some/model, no model; merge it first",
        ),
    ],
)
def test_a_folder_that_is_no_model_is_named_as_what_it_is(files: dict[str, str], told: str) -> None:
    Path("folder").mkdir()
    for name, text in files.items():
        Path("folder", name).write_text(text)
    with pytest.raises(ConfigError, match=told):
        checked("model={from_scratch: null, path: ./folder}")


def test_a_cluster_that_does_not_answer_is_told_of_at_once() -> None:
    with pytest.raises(
        ResourceError, match=r"no Ray cluster listens at 127\.0\.0\.1:1: .*cluster\.address: local"
    ):
        checked("cluster.address=127.0.0.1:1")


def test_a_form_that_no_row_teaches_and_a_judge_that_does_not_answer_are_warned_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    judge = "{kind: judge, name: empathy, base_url: 'http://127.0.0.1:1/v1', model: m, rubric: empathy}"
    checked("data.missing_trace=none", f"rewards.terms=[{{kind: format}}, {judge}]")
    printed = capsys.readouterr().out
    assert "# warning: no training row has a trace, and data.missing_trace is none" in printed
    assert "teaches L1, L2, L3, L4." in printed
    assert "# warning: reward term empathy: http://127.0.0.1:1/v1 does not answer (ConnectError" in printed


def test_cpus_that_the_machine_lacks_are_told_of_and_those_that_the_cluster_lacks_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    there_are = len(os.sched_getaffinity(0))
    checked("run.stages=[sft]", f"cluster.stage_worker.num_cpus={there_are}")
    assert (
        f"# the plan asks for {there_are + 1} CPUs and this machine has {there_are}: the run goes ahead"
        in (capsys.readouterr().out)
    )
    with pytest.raises(ResourceError, match=r"5 CPUs, of which cluster\.num_cpus gives 4\. Lower cluster"):
        checked("cluster.num_cpus=4")
