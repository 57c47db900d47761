"""The teacher behind an OpenAI-compatible URL: concurrent, patient, cached.

    post + best reference ──> teacher ──> completion ──strict parse──> Trace
                                 │             └── does not parse: asked again, then RejectedTraceError
                                 └── busy, broken, late: waits and tries again, then RejectedTraceError

A reply that parsed is appended to a cache at once, so a run that is stopped or killed asks for nothing twice.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import tenacity

from rl_empathy.data.teachers import (
    Language,
    RejectedTraceError,
    reasoning_names,
    row_language,
    teacher_messages,
)
from rl_empathy.data.text import shown, unwritable
from rl_empathy.errors import ConfigError, ModelError
from rl_empathy.schema import OutputSchema
from rl_empathy.types import Row, Trace

_PASSING = {408, 409, 425, 429}
_ABOUT_THE_ROW = {400, 413, 422}
_LONGEST_WAIT_S = 60.0


class _PassingError(Exception):
    """The server is busy or away; `wait_s` is what it asked for."""

    def __init__(self, text: str, wait_s: float = 0.0) -> None:
        super().__init__(text)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAISettings:
    """How to reach the teacher's server, and how patient to be."""

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
    """Replies asked for before a row whose replies do not parse is set aside."""
    back_off_s: float = 1.0
    """Scale of the waits, seconds."""
    max_completion_tokens: int = 768
    max_failures: int = 5
    """Rows given up one after the other, with no reply between, before the run stops."""


class OpenAITeacher:
    """A model behind an OpenAI-compatible URL; use as an async context manager."""

    def __init__(
        self, settings: OpenAISettings, schema: OutputSchema, *, language: Language, cache: Path
    ) -> None:
        self._settings, self._schema, self._language = settings, schema, language
        self._failures = 0
        self.num_cached = 0
        self._url = _chat_url(settings.base_url)
        self._shown_url = str(self._url.copy_with(userinfo=b"", query=None))
        self._key = "" if settings.api_key_name is None else _key(settings.api_key_name)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.AsyncClient(headers=headers, timeout=settings.timeout_s)
        self._replies = ReplyCache(cache)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        self._replies.close()

    async def trace(self, row: Row) -> Trace:
        messages = teacher_messages(row, self._schema, row_language(row, self._language))
        key = hashlib.sha256(json.dumps([self._settings.model, messages]).encode()).hexdigest()
        reply = self._replies.get(key)
        if reply is None or self._errors(reply):
            reply = await self._valid_reply(messages)
            self._replies.add(key, reply)
        else:
            self.num_cached += 1
        spans = self._schema.parse(reply, strict=True).spans
        texts = {name: spans[name].text for name in reasoning_names(self._schema)}
        return Trace(spans=texts, teacher=f"openai:{self._settings.model}")

    async def _valid_reply(self, messages: list[dict[str, str]]) -> str:
        errors: tuple[str, ...] = ()
        for attempt in range(self._settings.num_replies):
            reply = (await self._reply(messages, temperature=0.7 if attempt else 0.0)).strip()
            errors = self._errors(reply)
            if not errors:
                return reply
        raise RejectedTraceError(
            f"{self._settings.num_replies} replies did not parse as {self._schema.name}; "
            f"the last: {', '.join(errors)}"
        )

    def _errors(self, reply: str) -> tuple[str, ...]:
        problem = unwritable(reply)
        return (f"holds {problem}",) if problem else self._schema.parse(reply, strict=True).errors

    async def _reply(self, messages: list[dict[str, str]], *, temperature: float) -> str:
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
                    f"{text}. What was annotated is kept: mend the server and run again"
                ) from error
            raise RejectedTraceError(text) from error
        self._failures = 0
        return reply

    def _wait_s(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait_s if isinstance(error, _PassingError) else 0.0
        longest = min(_LONGEST_WAIT_S, self._settings.back_off_s * 32)
        wait = tenacity.wait_random_exponential(multiplier=self._settings.back_off_s, max=longest)
        return max(wait(state), min(asked, _LONGEST_WAIT_S))

    async def _call(self, messages: list[dict[str, str]], temperature: float) -> str:
        body = {
            "model": self._settings.model,
            "messages": messages,
            "temperature": temperature,
            "max_tokens": self._settings.max_completion_tokens,
        }
        try:
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
        if status in _ABOUT_THE_ROW:
            return RejectedTraceError(f"{self._shown_url} refused the row: {text}")
        return ModelError(
            f"{self._shown_url} refused model {self._settings.model!r}: {text}; check the URL (with /v1), "
            f"the model's name, and the key that {self._settings.api_key_name or 'api_key_name'} names"
        )


class ReplyCache:
    """Replies by the hash of model and messages: a JSON line each, on disk at once, readable by its owner."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._replies = _read_cache(path)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace")
        self._file.write("\n")  # a line that a kill cut short ends here

    def get(self, key: str) -> str | None:
        return self._replies.get(key)

    def add(self, key: str, reply: str) -> None:
        self._replies[key] = reply
        self._file.write(json.dumps({"key": key, "reply": reply}, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _read_cache(path: Path) -> dict[str, str]:
    replies: dict[str, str] = {}
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            entry: dict[str, Any] = json.loads(line)
            replies[entry["key"]] = entry["reply"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # cut short by a kill: its reply is asked for again
    return replies


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
        raise ConfigError(
            f"the environment variable {name} (the teacher's API key) is not set; export it first"
        )
    return key


def _chat_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url.rstrip("/") + "/chat/completions")
    except httpx.InvalidURL as error:
        raise ConfigError(f"base_url {shown(base_url)} is no URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"base_url {shown(base_url)} must begin with http:// or https:// and name a host")
    return url
