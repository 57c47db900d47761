"""Rows whose fine-tuning target cannot be written follow data.on_bad_row before anything starts."""

import logging
from dataclasses import replace

import pytest

from rl_empathy.config.run_file import RunFile
from rl_empathy.data.conversations import target_text
from rl_empathy.data.loading import DataSet
from rl_empathy.data.targets import with_targets
from rl_empathy.errors import DataError
from rl_empathy.schema import named_schema
from rl_empathy.types import Message, Reference, Row, Trace


def make_data(*references: str) -> DataSet:
    rows = tuple(
        Row(
            id=f"row-{i}",
            messages=(Message(role="user", content="I feel lost at work."),),
            references=(Reference(text=text),),
        )
        for i, text in enumerate(references)
    )
    return DataSet(train=rows[1:], held_out=rows[:1], counts={"bad_rows": 1}, sha256="", source="posts.jsonl")


def make_run_file(**data: str) -> RunFile:
    return RunFile.model_validate({"model": {"from_scratch": {}}, "data": data})


GOOD, QUOTING = "That sounds hard.", "Write it as <answer>so</answer> then."


def test_a_reference_that_quotes_a_tag_ends_the_run_by_its_name() -> None:
    with pytest.raises(
        DataError, match=r"(?s)1 row\(s\) in posts\.jsonl .*on_bad_row: skip\n  row row-2: .*<answer>"
    ):
        with_targets(make_data(GOOD, GOOD, QUOTING), make_run_file())


def test_a_skipped_row_is_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        kept = with_targets(make_data(QUOTING, GOOD, "…"), make_run_file(on_bad_row="skip"))
    assert [row.id for row in (*kept.train, *kept.held_out)] == ["row-1"]
    assert kept.counts["bad_rows"] == 3
    assert "row row-0: " in caplog.text
    assert "'answer' has fewer than 3 letters" in caplog.text


def test_a_run_without_fine_tuning_keeps_all_rows() -> None:
    run_file = make_run_file().model_copy(
        update={"run": make_run_file().run.model_copy(update={"stages": ("evaluate",)})}
    )
    data = make_data(QUOTING, GOOD)
    assert with_targets(data, run_file) is data


@pytest.mark.parametrize("schema", ["think_answer", "kardia"])
def test_templates_are_refused_for_a_schema_that_they_cannot_fill(schema: str) -> None:
    run = {"model": {"from_scratch": {}}, "schema": schema}
    with pytest.raises(
        ValueError, match=r"missing_trace template writes the spans of chain_of_empathy .*drop"
    ):
        RunFile.model_validate(run)
    assert RunFile.model_validate(run | {"data": {"missing_trace": "drop"}})
    assert RunFile.model_validate(run | {"run": {"stages": ["evaluate"]}})


def test_the_plain_schema_needs_no_trace() -> None:
    assert RunFile.model_validate({"model": {"from_scratch": {}}, "schema": "plain"})


def test_a_form_of_ones_own_is_taught_from_rows_without_reasoning() -> None:
    row = Row(
        id="a",
        messages=(Message(role="user", content="I am tired."),),
        references=(Reference(text="I hear you."),),
    )
    schema = named_schema("think_answer")
    assert target_text(row, schema, language="en", missing_trace="drop") is None
    assert target_text(row, schema, language="en", missing_trace="none") == "<answer>\nI hear you.\n</answer>"
    traced = replace(row, trace=Trace(spans={"think": "They feel tired."}, teacher="author"))
    written = target_text(traced, schema, language="en", missing_trace="none")
    assert schema.parse(str(written), strict=True).valid
