"""Conversations to token ids by the model's own chat template."""

from collections.abc import Sequence
from typing import Any, Literal

from rl_empathy.data.templates import template_trace
from rl_empathy.schema import OutputSchema
from rl_empathy.types import Message, Row


def prompt_messages(row: Row, system_prompt: str) -> list[Message]:
    """The row's conversation, after a system message where one is wanted and the row brings none."""
    if system_prompt and row.messages[0].role != "system":
        return [Message(role="system", content=system_prompt), *row.messages]
    return list(row.messages)


def prompt_token_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Render a prompt up to where the assistant begins to write.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        messages: The conversation; the last message is the user's.

    Returns:
        Token ids, special tokens included once.
    """
    return list(
        tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.content} for message in messages],
            add_generation_prompt=True,
            return_dict=False,
        )
    )


def completion_token_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a written completion, with the end token that sampling would have ended on."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def target_text(
    row: Row,
    schema: OutputSchema,
    *,
    language: Literal["en", "zh"],
    missing_trace: Literal["template", "drop"],
) -> str | None:
    """What the assistant should have written for a row: its trace and its best reference, rendered.

    Args:
        row: With a reference.
        schema: Names the spans.
        language: "en" or "zh".
        missing_trace: "template" writes a trace by the offline rules; "drop" gives None.

    Returns:
        The completion's text; None for a row without a reference, or without a trace that may be made.
    """
    if not row.references:
        return None
    trace = row.trace or (template_trace(row, language) if missing_trace == "template" else None)
    reasoning = [name for name in schema.span_names if name != schema.answer]
    if reasoning and trace is None:
        return None
    spans = {name: trace.spans[name] for name in reasoning} if trace is not None else {}
    return schema.render({**spans, schema.answer: row.references[0].text})
