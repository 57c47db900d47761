"""The teacher behind an OpenAI-compatible URL.

post + best reference ──> teacher ──> completion ──strict parse──> Trace, or RejectedTraceError
"""

from pathlib import Path
from typing import Self

from rl_empathy.data.teachers import (
    Language,
    RejectedTraceError,
    reasoning_names,
    row_language,
    teacher_messages,
)
from rl_empathy.judging.chat_client import (
    ChatClient,
    ChatSettings,
    UnreadableReplyError,
    UnusableReplyError,
)
from rl_empathy.observability.shown import unwritable
from rl_empathy.schema import OutputSchema
from rl_empathy.types import Row, Trace


class OpenAITeacher:
    """A model behind a URL; use as an async context manager."""

    def __init__(
        self, settings: ChatSettings, schema: OutputSchema, *, language: Language, cache: Path
    ) -> None:
        self._client = ChatClient(settings, cache=cache)
        self._schema, self._language = schema, language
        self._name = f"openai:{settings.model}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    @property
    def num_cached(self) -> int:
        """Traces that were there before this run."""
        return self._client.num_cached

    async def trace(self, row: Row) -> Trace:
        messages = teacher_messages(row, self._schema, row_language(row, self._language))
        try:
            spans = await self._client.ask(messages, self._spans)
        except UnusableReplyError as error:
            raise RejectedTraceError(str(error)) from error
        return Trace(spans=spans, teacher=self._name)

    def _spans(self, reply: str) -> dict[str, str]:
        if problem := unwritable(reply):
            raise UnreadableReplyError(f"did not parse as {self._schema.name}; the last holds {problem}")
        parsed = self._schema.parse(reply, strict=True)
        if parsed.errors:
            raise UnreadableReplyError(
                f"did not parse as {self._schema.name}; the last: {', '.join(parsed.errors)}"
            )
        return {name: parsed.text_of(name) for name in reasoning_names(self._schema)}
