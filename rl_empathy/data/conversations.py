"""Conversations to token ids by the model's own chat template."""

from collections.abc import Sequence
from typing import Any

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
