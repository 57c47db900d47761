"""A model behind an OpenAI-compatible URL: concurrent, patient, cached.

messages ──> server ──> reply ──read──> what it says
               │          └── says nothing usable: asked again, then UnusableReplyError
               └── busy, broken, late: waits and tries again, then UnusableReplyError
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import httpx
import tenacity

from rl_empathy.errors import ConfigError, ModelError
from rl_empathy.judging.reply_cache import ReplyCache
from rl_empathy.observability.shown import shown

T = TypeVar("T")
Messages = Sequence[dict[str, str]]
_PASSING = {408, 409, 425, 429}
_ABOUT_THE_MESSAGES = {400, 413, 422}
_LONGEST_WAIT_S = 60.0
_TEMPERATURE_AGAIN = 0.7


class UnusableReplyError(Exception):
    """The model gave no reply that says anything usable; the text says why."""


class UnreadableReplyError(Exception):
    """What a reader raises for a reply that it cannot use."""


class _PassingError(Exception):
    """The server is busy or away; `wait_s` is what it asked for."""

    def __init__(self, text: str, wait_s: float = 0.0) -> None:
        super().__init__(text)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings:
    """How to reach the server, and how patient to be."""

    base_url: str
    """Up to and including /v1."""
    model: str
    api_key_name: str | None = None
    """Name of the environment variable with the key; the key itself is never an argument."""
    timeout_s: float = 120.0
    """Deadline of one call, seconds."""
    num_calls: int = 6
    """Calls before a server that is busy or away is given up, with exponential waits between."""
    num_replies: int = 3
    """Replies asked for before messages whose replies say nothing usable are given up."""
    back_off_s: float = 1.0
    """Scale of the waits, seconds."""
    max_completion_tokens: int = 768
    max_failures: int = 5
    """Messages given up one after the other, with no reply between, before the server is."""
    concurrency: int = 8
    """Calls at a time."""


class ChatClient:
    """Asks one model; use as an async context manager, or call `close`."""

    def __init__(self, settings: ChatSettings, *, cache: Path | None = None) -> None:
        """Nothing is asked yet.

        Args:
            settings: How to reach the server.
            cache: File of the replies; None keeps none.

        Raises:
            ConfigError: The URL is none, or the key's environment variable is not set.
        """
        self._settings = settings
        self._failures = 0
        self.num_cached = 0
        """Replies that came from the cache."""
        self._url = _chat_url(settings.base_url)
        self._shown_url = str(self._url.copy_with(userinfo=b"", query=None))
        self._key = "" if settings.api_key_name is None else _key(settings.api_key_name)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.AsyncClient(headers=headers, timeout=settings.timeout_s)
        self._replies = None if cache is None else ReplyCache(cache)
        self._calls = asyncio.Semaphore(settings.concurrency)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.aclose()
        if self._replies is not None:
            self._replies.close()

    async def ask(self, messages: Messages, read: Callable[[str], T]) -> T:
        """Ask until a reply can be read.

        Args:
            messages: The conversation so far.
            read: What a reply says; raises UnreadableReplyError where it says nothing usable.

        Raises:
            UnusableReplyError: No reply could be read, the server gave none, or it refused the messages.
            ModelError: The server refuses the model, or is away again and again.
        """
        key = hashlib.sha256(json.dumps([self._settings.model, messages]).encode()).hexdigest()
        kept = self._replies.get(key) if self._replies is not None else None
        if kept is not None:
            try:
                said = read(kept)
                self.num_cached += 1
                return said
            except UnreadableReplyError:
                pass  # kept by another reader, or for another scale: asked for again
        return await self._asked(key, messages, read)

    async def _asked(self, key: str, messages: Messages, read: Callable[[str], T]) -> T:
        last: UnreadableReplyError | None = None
        for attempt in range(self._settings.num_replies):
            reply = (await self._reply(messages, temperature=_TEMPERATURE_AGAIN if attempt else 0.0)).strip()
            try:
                said = read(reply)
            except UnreadableReplyError as error:
                last = error
                continue
            if self._replies is not None:
                self._replies.add(key, reply)
            return said
        raise UnusableReplyError(f"{self._settings.num_replies} replies {last}")

    async def _reply(self, messages: Messages, *, temperature: float) -> str:
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._settings.num_calls),
            wait=self._wait_s,
            retry=tenacity.retry_if_exception_type(_PassingError),
            reraise=True,
        )
        try:
            reply: str = await retrying(self._call, messages, temperature)
        except _PassingError as error:
            self._failures += 1
            text = f"{self._shown_url} gave no reply in {self._settings.num_calls} calls; the last: {error}"
            if self._failures >= self._settings.max_failures:
                raise ModelError(
                    f"{text}. The replies so far are kept: mend the server and run again"
                ) from error
            raise UnusableReplyError(text) from error
        self._failures = 0
        return reply

    def _wait_s(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait_s if isinstance(error, _PassingError) else 0.0
        longest = min(_LONGEST_WAIT_S, self._settings.back_off_s * 32)
        wait = tenacity.wait_random_exponential(multiplier=self._settings.back_off_s, max=longest)
        return max(wait(state), min(asked, _LONGEST_WAIT_S))

    async def _call(self, messages: Messages, temperature: float) -> str:
        body = {
            "model": self._settings.model,
            "messages": list(messages),
            "temperature": temperature,
            "max_tokens": self._settings.max_completion_tokens,
        }
        try:
            async with self._calls:
                response = await self._client.post(self._url, json=body)
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _PassingError(f"{type(error).__name__} {shown(str(error), 80)}") from error
        if response.status_code != 200:
            raise self._refusal(response)
        return _content(response)

    def _refusal(self, response: httpx.Response) -> Exception:
        status = response.status_code
        body = response.text.replace(self._key, "[key]") if self._key else response.text
        text = f"HTTP {status} {shown(body, 120)}"
        if status in _PASSING or status >= 500:
            asked = response.headers.get("retry-after", "")
            return _PassingError(text, float(asked) if asked.isdecimal() else 0.0)
        if status in _ABOUT_THE_MESSAGES:
            return UnusableReplyError(f"{self._shown_url} refused the text: {text}")
        return ModelError(
            f"{self._shown_url} refused model {self._settings.model!r}: {text}; check the URL (with /v1), "
            f"the model's name, and the key that {self._settings.api_key_name or 'api_key_name'} names"
        )


def _content(response: httpx.Response) -> str:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise _PassingError(
            f"an answer without choices[0].message.content ({type(error).__name__})"
        ) from error
    return content if isinstance(content, str) else ""


def _key(name: str) -> str:
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(f"the environment variable {name} (the API key) is not set; export it first")
    return key


def _chat_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url.rstrip("/") + "/chat/completions")
    except httpx.InvalidURL as error:
        raise ConfigError(f"base_url {shown(base_url)} is no URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"base_url {shown(base_url)} must begin with http:// or https:// and name a host")
    return url
