"""What a language model says of a reply, by a rubric."""

import asyncio
import logging

import httpx

from rl_empathy.config.sections.rewards import JudgeTerm
from rl_empathy.judging.chat_client import ChatClient, ChatSettings, UnusableReplyError
from rl_empathy.judging.rubrics import judge_messages, read_grade, rubric_text
from rl_empathy.rewards.parts import Parts
from rl_empathy.rewards.view import GroupView

ANSWERS_S = 3.0
"""A server that is up begins to answer within this."""

log = logging.getLogger(__name__)


class Judge:
    """The place of a grade on its scale, 0 to 1. A reply without a text that may be seen is not sent, and has 0."""

    blocks = False

    @staticmethod
    def remarks(config: JudgeTerm) -> list[str]:
        """Whether anybody answers at the judge's address, whatever the answer is."""
        try:
            httpx.get(f"{config.base_url}/models", timeout=ANSWERS_S)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return [
                f"reward term {config.name}: {config.base_url} does not answer ({type(error).__name__}: {error}); "
                "as long as it does not, no group gets its scores, and none is trained"
            ]
        return []

    def __init__(self, config: JudgeTerm, parts: Parts) -> None:
        settings = ChatSettings(
            base_url=config.base_url,
            model=config.model,
            api_key_name=config.api_key_name,
            timeout_s=config.deadline_s,
            concurrency=config.concurrency,
        )
        cache = None if parts.cache is None else parts.cache / f"{config.name}.jsonl"
        self._client = ChatClient(settings, cache=cache)
        self._name = config.name
        self._rubric = rubric_text(config.rubric, parts.language)
        self._scale, self._language, self._missing = config.scale, parts.language, config.worst

    async def score(self, view: GroupView) -> list[float | None]:
        return await asyncio.gather(*(self._grade(view.row.post, text) for text in view.texts))

    async def _grade(self, post: str, text: str) -> float | None:
        if not text:
            return self._missing
        messages = judge_messages(
            self._rubric, post=post, reply=text, scale=self._scale, language=self._language
        )
        try:
            return await self._client.ask(messages, lambda reply: read_grade(reply, self._scale))
        except UnusableReplyError as error:
            log.warning("%s has no grade for a reply: %s", self._name, error)
            return None
