"""The counselling text: where it is, how it is read, and what is left out."""

import codecs
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator

from rl_empathy.config.sections.section import BrokenRule, Count, Section


class ColumnsConfig(Section):
    """Which fields of a foreign data set hold what."""

    prompt: str
    """Field with the help-seeker's text; like the others a name, or a way into the record: `posts[0].text`."""
    answer: str | None = None
    """Field with a reply, or with a list of replies, such as `answers[].text`."""
    topic: str | None = None
    """Field with the topic."""
    id: str | None = None
    """Field with an identifier; the row's number when left out."""


class DataConfig(Section):
    """The counselling text."""

    train: str | None = None
    """Path of a file (.jsonl, .json, .csv, .tsv, .parquet), of a folder of such files, or the hub name of a data set;
    the bundled synthetic set when left out."""
    held_out: str | None = None
    """Path of a file or folder of the same format with the prompts to hold out; rows of `train` that have them, or a
    near-copy, are left out. Left out: they are taken from `train`."""
    format: Literal[
        "rows",
        "columns",
        "sharegpt",
        "messages",
        "alpaca",
        "counselchat",
        "smile",
        "psyqa",
        "esconv",
        "empathetic_dialogues",
    ] = "rows"
    """How to read it: our own JSON lines, any table by a column mapping, a layout of chats or instructions, or a
    public set by name."""
    columns: ColumnsConfig | None = None
    """Column mapping; wanted by, and only by, format: columns."""
    replies: Literal["last", "every"] = "last"
    """Of a dialogue: the last reply with all that came before it as one row, or a row for every reply."""
    encoding: str = "utf-8-sig"
    """Of text files, as Python names it: cp1252, gb18030, …"""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Between the columns of a CSV file; left out: a comma, or a tab in a file .tsv."""
    language: Literal["en", "zh"] = "en"
    """Language of the text: chooses the bundled set, word or character measures, the lexicon and
    the templates."""
    held_out_prompts: Count | Annotated[float, Field(gt=0, lt=1)] = 64
    """Prompts kept for evaluation, or their share of all; a split is by prompt, so no post is on both sides."""
    min_answer_characters: Annotated[int, Field(ge=0)] = 20
    """Shorter references are left out, and counted."""
    max_answer_characters: Annotated[int, Field(ge=1)] | None = None
    """Longer references are left out, and counted: a model writes answers as long as those it is shown."""
    max_references: Count = 8
    """References kept for a prompt, best first."""
    max_prompt_tokens: Count = 512
    """Longer prompts are dropped by name, never cut."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """What a row that cannot be read does: end the run, or be left out and counted. A fault after
    which rows cannot be told apart ends the run in both cases."""
    on_risk: Literal["keep", "exclude", "template"] = "exclude"
    """What a row that speaks of acute risk does: stay, be left out, or stay with a fixed safe
    reply as its reference."""
    missing_trace: Literal["template", "drop", "none"] = "template"
    """What a row without a trace does in stage sft: get one from the offline template teacher, be left out, or be
    taught without the spans of reasoning that it lacks."""
    system_prompt: str | None = None
    """System message before every conversation; the schema's own instruction when left out, none
    when empty."""
    system_prompt_role: Literal["system", "user"] = "system"
    """Where a system message stands: in its own place, or at the beginning of the first user message, for a model
    whose chat template takes no system message."""

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, encoding: str) -> str:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise ValueError(
                f"Python knows no encoding {encoding!r}; utf-8, cp1252, gb18030 are some"
            ) from None
        return encoding

    def broken_rules(self) -> Iterator[BrokenRule]:
        if self.max_answer_characters and self.max_answer_characters < self.min_answer_characters:
            yield BrokenRule(
                ("max_answer_characters", "min_answer_characters"),
                f"max_answer_characters ({self.max_answer_characters}) is less than min_answer_characters "
                f"({self.min_answer_characters}): no reference would be left",
            )
        if (self.format == "columns") != (self.columns is not None):
            yield BrokenRule(
                ("columns", "format"), "columns and format: columns go together; give both or neither"
            )
