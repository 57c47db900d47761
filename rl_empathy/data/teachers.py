"""Teachers of traces, what they are asked, and the offline one; openai_teacher.py has the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from rl_empathy.data.templates import LAYERS, template_trace
from rl_empathy.errors import ConfigError, DataError
from rl_empathy.schema import OutputSchema
from rl_empathy.types import Row, Trace

Language = Literal["en", "zh"]

_ASK: Mapping[Language, str] = {
    "en": (
        "You annotate counselling text. You get what a help-seeker wrote, and the reply that a counsellor "
        "gave. Write the reasoning that leads from the one to the other, each part one sentence of 8 to 25 "
        "words with details of this very text. In the part for the answer write only: as given.\n\n"
    ),
    "zh": (
        "你在为心理咨询文本做标注。给你求助者的讲述和咨询师的回复，请写出从讲述到回复的思考过程，"
        "每一部分一句话，15到40个字，用到这段讲述的具体内容。在回答部分只写：如上。\n\n"
    ),
}
_PARTS: Mapping[Language, tuple[str, str]] = {
    "en": ("What the help-seeker wrote", "The counsellor's reply"),
    "zh": ("求助者的讲述", "咨询师的回复"),
}


class RejectedTraceError(DataError):
    """The teacher gave no usable trace for a row; the text says why."""


class Teacher(Protocol):
    """Writes the trace of a row, or raises RejectedTraceError.

    Example:
        class OneLine:
            async def trace(self, row: Row) -> Trace:
                return Trace(spans={"think": row.post[:80]}, teacher="one-line")
    """

    async def trace(self, row: Row) -> Trace: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateTeacher:
    """The offline teacher of `templates.py`."""

    language: Language

    async def trace(self, row: Row) -> Trace:
        return template_trace(row, row_language(row, self.language))


def teacher_messages(row: Row, schema: OutputSchema, language: Language) -> list[dict[str, str]]:
    """Ask for the schema's form, given the conversation and the best reference."""
    wrote, reply = _PARTS[language]
    has_context = len(row.messages) > 1
    turns = [f"[{m.role}] {m.content}" if has_context else m.content for m in row.messages]
    text = f"{wrote}:\n" + "\n\n".join(turns)
    if row.references:
        text += f"\n\n{reply}:\n{row.references[0].text}"
    return [
        {"role": "system", "content": _ASK[language] + schema.instruction(language)},
        {"role": "user", "content": text},
    ]


def reasoning_names(schema: OutputSchema) -> tuple[str, ...]:
    """Names of the spans that a trace holds: all but the answer."""
    return tuple(name for name in schema.span_names if name != schema.answer)


def require_template_schema(schema: OutputSchema) -> None:
    """Refuse a schema that the templates cannot fill: they write four layers and nothing else.

    Raises:
        ConfigError: The schema's reasoning has other spans.
    """
    if reasoning_names(schema) != LAYERS:
        raise ConfigError(
            f"the templates write the spans {', '.join(LAYERS)}; schema {schema.name} has "
            f"{', '.join(reasoning_names(schema)) or 'no reasoning'}. Use teacher openai "
            "without on_risk template, or chain_of_empathy"
        )


def row_language(row: Row, default: Language) -> Language:
    """Give the row's own language where it is one of ours, else `default`."""
    known: Mapping[str, Language] = {"en": "en", "zh": "zh"}
    return known.get(row.metadata.get("language", ""), default)
