"""What the stages share: prompts of the run's rows, and rows that cannot be used."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rl_empathy.config.run_file import RunFile
from rl_empathy.engines.token_table import TokenTable
from rl_empathy.errors import DataError
from rl_empathy.observability.progress import Progress
from rl_empathy.orchestration import tokenizing
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.tokenizing import fine_tuning_samples
from rl_empathy.types import Message, Reference, Row
from tests.tiny_models import make_tiny_tokenizer
from tests.unit.data.test_conversations import TOKENIZERS

ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
)


def make_context(progress: Progress, **data: str | int) -> RunContext:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = ALTERNATING
    run_file = RunFile.model_validate({"model": {"from_scratch": {}}, "data": {"system_prompt": "", **data}})
    absent: Any = None
    return RunContext(
        run_file=run_file, directory=absent, data=absent, log=absent, progress=progress, tokenizer=tokenizer
    )


def samples_of(context: RunContext, rows: tuple[Row, ...]) -> TokenTable:
    return asyncio.run(fine_tuning_samples(context, Path("model"), rows))


def make_row(name: str, *contents: str) -> Row:
    return Row(id=name, messages=tuple(Message(role="user", content=text) for text in contents))


def test_a_row_that_the_template_refuses_ends_the_run_by_its_name() -> None:
    with (
        Progress() as progress,
        pytest.raises(DataError, match=r"(?s)1 of 2 prompts .*\n  twice: .*must alternate"),
    ):
        make_context(progress).prompts([make_row("once", "Hi"), make_row("twice", "Hi", "Hello?")])


def test_a_row_that_the_template_refuses_is_skipped_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        context = make_context(progress, on_bad_row="skip")
        kept = context.prompts([make_row("once", "Hi"), make_row("twice", "Hi", "Hello?")])
    assert [row.id for row, _ in kept] == ["once"]
    assert "twice: the chat template refuses" in capsys.readouterr().err


@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
def test_a_target_that_quotes_a_token_of_the_models_template_is_treated_as_other_bad_rows(
    on_bad_row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the stage knows the model's own tokens, so that the run could not look before."""
    rows = tuple(
        replace(make_row(name, "Hi, I am lost."), references=(Reference(text=text),))
        for name, text in (("plain", "I hear you."), ("quoting", "I <whisper> hear you."))
    )
    with Progress() as progress:
        context = make_context(progress, on_bad_row=on_bad_row)
        context.tokenizer.add_special_tokens({"extra_special_tokens": ["<whisper>"]})
        if on_bad_row == "stop":
            with pytest.raises(
                DataError, match=r"(?s)1 of 2 fine-tuning targets .*\n  quoting: .*'<whisper>'"
            ):
                samples_of(context, rows)
        else:
            assert len(samples_of(context, rows)) == 1
            assert "quoting: " in capsys.readouterr().err


def test_a_target_that_the_models_tokenizer_cannot_write_ends_the_run_by_its_name() -> None:
    row = replace(make_row("odd", "Hi, I am lost."), references=(Reference(text="I see you."),))
    with Progress() as progress:
        context = make_context(progress)
        context.tokenizer = TOKENIZERS["unigram"]
        with pytest.raises(
            DataError, match=r"(?s)1 of 1 fine-tuning targets .*\n  odd: the tokenizer writes"
        ):
            samples_of(context, (row,))


def test_a_token_of_the_models_template_is_no_text_of_a_span() -> None:
    with Progress() as progress:
        context = make_context(progress)
        context.tokenizer.add_special_tokens({"extra_special_tokens": ["<whisper>"]})
        schema = context.schema
    spans = {"L1": "sad", "L2": "alone", "L3": "comfort", "L4": "listen", "answer": "I <whisper> hear you."}
    with pytest.raises(ValueError, match="contains the delimiter '<whisper>'"):
        schema.render(spans)
    assert schema.render(spans | {"answer": "I hear you."})


def test_rows_in_blocks_are_the_same_samples_in_the_same_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As several processes write them: some without a reference, one too long, one that breaks the form."""
    texts = ["I hear you.", "", "That is hard.", "I <whisper> hear.", "Go on.", "Tell me more."]
    rows = tuple(
        replace(
            make_row(f"row-{n}", "Hi" * (400 if n == 4 else n + 1)),
            references=(Reference(text=t),) if t else (),
        )
        for n, t in enumerate(texts)
    )

    async def in_this_process(function: Any, block: Any, *arguments: Any, **options: Any) -> Any:
        return tokenizing.tokenized(block, context.tokenizer, context.schema, context.run_file.data, "")

    with Progress() as progress:
        context = make_context(progress, on_bad_row="skip", max_prompt_tokens=100, missing_trace="none")
        context.tokenizer.add_special_tokens({"extra_special_tokens": ["<whisper>"]})
        at_once = [*samples_of(context, rows)]
        monkeypatch.setattr(tokenizing, "run_task", in_this_process)
        monkeypatch.setattr(tokenizing, "MANY_ROWS", 1)
        monkeypatch.setattr(tokenizing, "BLOCK_ROWS", 2)
        in_blocks = [*samples_of(context, rows)]
    assert len(at_once) == 3
    assert in_blocks == at_once
    told = capsys.readouterr().err
    assert "1 of 6 prompts are longer than data.max_prompt_tokens (100) and are left out: row-4 (" in told
    assert "row-3: " in told
