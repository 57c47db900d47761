"""The HTTP side in front of a policy server that writes what it is told to."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.requests import Request

from rl_empathy.config.sections import ServeConfig
from rl_empathy.data.risk import SAFE_REPLY
from rl_empathy.schema import CHAIN_OF_EMPATHY
from rl_empathy.serving.ingress import Ingress, IngressSettings, http
from rl_empathy.serving.reply import Piece
from rl_empathy.serving.schemas import ApiError

GOOD = CHAIN_OF_EMPATHY.render(
    {"L1": "sad", "L2": "alone", "L3": "wants comfort", "L4": "listen", "answer": "I hear you."}
)
EMPTY = GOOD.replace("I hear you.", "")


class TellingPolicy:
    """Stands for the handle of a policy server: writes the given completions, one a call; keeps what it was asked."""

    def __init__(self, *completions: str, error: str = "") -> None:
        self.completions = list(completions)
        self.error = error
        self.asked: list[dict[str, Any]] = []
        self.num_cancelled = 0

    def options(self, *, stream: bool) -> "TellingPolicy":
        assert stream
        return self

    @property
    def write(self) -> "TellingPolicy":
        return self

    def remote(self, messages: list[dict[str, str]], **settings: Any) -> "Pieces":
        self.asked.append({"messages": messages, **settings})
        return Pieces(self)


class Pieces:
    """What one call gives: the characters of a completion, a token each."""

    def __init__(self, policy: TellingPolicy) -> None:
        self._policy = policy
        self._pieces = self._written()

    def _written(self) -> Iterator[Piece]:
        if self._policy.error:
            yield Piece(error=self._policy.error)
        for mark in self._policy.completions.pop(0):
            yield Piece(text=mark, tokens=1, prompt_tokens=5)
        yield Piece(finish_reason="stop")

    def cancel(self) -> None:
        self._policy.num_cancelled += 1

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        try:
            return next(self._pieces)
        except StopIteration:
            raise StopAsyncIteration from None


def ask(
    policy: TellingPolicy, *, language: str = "en", said: str = "hi", **changes: Any
) -> tuple[Any, bytes]:
    """The response to a question, and its whole body."""
    settings = IngressSettings(
        model_name="m",
        schema=CHAIN_OF_EMPATHY,
        system_prompt="",
        language=language,
        config=ServeConfig(max_reasoning_tokens=200),
        temperature=1.0,
    )
    sent = json.dumps({"messages": [{"role": "user", "content": said}], **changes}).encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": sent, "more_body": False}

    async def answer() -> tuple[Any, bytes]:
        scope = {
            "type": "http",
            "headers": [(b"content-type", b"application/json")],
            "method": "POST",
            "path": "/",
        }
        response = await Ingress(policy, settings).chat_completions(Request(scope, receive))  # type: ignore[arg-type]
        if not hasattr(response, "body_iterator"):
            return response, response.body
        return response, b"".join([part async for part in response.body_iterator])

    return asyncio.run(answer())


def events(body: bytes) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in body.decode().split("\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@pytest.mark.parametrize("empty", [EMPTY, "", "<L1>sad", "\u200b", "<empathy_think><L1>" + "sad " * 200])
def test_an_empty_reply_is_tried_again_and_the_second_attempt_is_sent(empty: str) -> None:
    policy = TellingPolicy(empty, GOOD)
    _, body = ask(policy, seed=7, temperature=0)
    reply = json.loads(body)
    assert reply["choices"][0]["message"]["content"] == "I hear you."
    assert reply["metadata"]["attempts"] == 2
    assert [asked["options"] for asked in policy.asked] == [
        {"temperature": 0, "seed": 7},
        {"temperature": 0.7, "seed": 8},
    ]
    assert policy.num_cancelled == 2


def test_two_empty_replies_are_an_error_and_there_is_no_third_attempt() -> None:
    policy = TellingPolicy(EMPTY, "")
    with pytest.raises(ApiError, match="no answer in 2 attempts") as failed:
        ask(policy)
    assert (failed.value.status, failed.value.code, len(policy.asked)) == (502, "no_answer", 2)


def test_in_a_stream_the_second_attempt_goes_on_and_two_empty_replies_end_with_an_error_event() -> None:
    _, body = ask(TellingPolicy(EMPTY, GOOD), stream=True)
    *chunks, done = events(body)
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "I hear you."
    assert (chunks[-1]["metadata"]["attempts"], done) == (2, "[DONE]")
    _, body = ask(TellingPolicy(EMPTY, EMPTY), stream=True)
    first, error = events(body)
    assert first["choices"][0]["delta"]["content"] == ""
    assert error["error"]["code"] == "no_answer"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("language", "said"), [("en", "I want to kill myself tonight"), ("zh", "我想自杀")])
def test_acute_risk_gets_the_safe_reply_of_the_endpoints_language_and_the_model_is_not_asked(
    language: str, said: str, stream: bool
) -> None:
    policy = TellingPolicy()
    response, body = ask(policy, language=language, said=said, stream=stream)
    assert response.headers["x-safe-reply"] == "acute_risk"
    chunks = events(body)[:-1] if stream else [json.loads(body)]
    key = "delta" if stream else "message"
    assert "".join(c["choices"][0][key].get("content", "") for c in chunks) == SAFE_REPLY[language]
    assert chunks[-1]["metadata"]["safe_reply"] == "acute_risk"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert policy.asked == []


class HealthyPolicy:
    """Stands for the handle of a policy server that is asked how it is."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self._error = error

    @property
    def check_health(self) -> "HealthyPolicy":
        return self

    async def remote(self) -> None:
        if self._error:
            raise self._error


@pytest.mark.parametrize("path", ["/health", "/healthz"])
@pytest.mark.parametrize(("error", "status"), [(None, 204), (RuntimeError("the engine is dead"), 503)])
def test_health_is_that_of_the_policy_server(path: str, error: Exception | None, status: int) -> None:
    (asked,) = [route.endpoint for route in http.routes if getattr(route, "path", "") == path]  # type: ignore[attr-defined]
    ingress = object.__new__(Ingress)
    ingress._policy = HealthyPolicy(error=error)  # type: ignore[assignment]
    response = asyncio.run(asked(ingress))
    assert (response.status_code, response.body) == (status, b"")


@pytest.mark.parametrize(("error", "status"), [("too_long", 400), ("not_taken", 400), ("failed", 500)])
def test_what_the_policy_server_refuses_has_a_status_of_its_own(error: str, status: int) -> None:
    with pytest.raises(ApiError) as refused:
        ask(TellingPolicy("", error=error), stream=True)
    assert refused.value.status == status


def test_the_engine_may_write_as_many_tokens_as_both_limits_allow() -> None:
    policy = TellingPolicy(GOOD)
    _, body = ask(policy, max_tokens=4)
    assert json.loads(body)["choices"][0]["message"]["content"] == "I he"
    assert json.loads(body)["usage"]["prompt_tokens"] == 5
    assert policy.asked[0]["max_tokens"] == 4 + 200 + 1
