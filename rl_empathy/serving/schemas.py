"""What a client may send and what it gets back, in the shapes of OpenAI's chat completions."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import from_json

from rl_empathy.data.risk import speaks_of_risk
from rl_empathy.types import Role

MAX_BODY_BYTES = 128 << 10
MAX_MESSAGES = 200

NOTICE_HEADER = "AI, not a clinician."
AT_RISK_HEADER = {"X-Safe-Reply": "acute_risk"}
"""With the fixed reply, which the metadata call `safe_reply`."""
NOTICES: Mapping[str, str] = {
    "en": "AI, not a clinician. A language model wrote this reply; it can be wrong and cannot help in an "
    "emergency. If you or somebody else is in danger, call the emergency number where you are.",
    "zh": "AI, not a clinician. 本回复由人工智能语言模型生成，不是临床医生；内容可能有误，也无法应对紧急情况。"
    "如果您或他人处于危险之中，请立即拨打当地的急救电话。",
}


_ESCAPED = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}
"""Ends of lines that JSON does not escape by itself."""


class ApiError(Exception):
    """A refusal in OpenAI's shape. Its text never repeats what the client wrote."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(status, message, code, param)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class _Read(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class ChatMessage(_Read):
    """One message; a content given in parts must be all text."""

    role: Role
    content: str
    reasoning: str | None = None
    """The reasoning of an earlier reply, as this server sent it; not read again."""

    @field_validator("content", mode="before")
    @classmethod
    def _join_text_parts(cls, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        texts = [part["text"] for part in content if _is_text_part(part)]
        if len(texts) < len(content):
            raise ValueError("only parts of type text are understood, each with its text")
        return "".join(texts)

    @field_validator("content")
    @classmethod
    def _no_nul(cls, content: str) -> str:
        if "\0" in content:
            raise ValueError("the character U+0000 cannot be read")
        return content


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


class StreamOptions(_Read):
    """Options of a streamed reply."""

    include_usage: bool = False
    """End with a chunk of its own for the usage."""


class ChatRequest(_Read):
    """The body of a chat completion request. Other keys are refused by name."""

    model: str | None = None
    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=MAX_MESSAGES, strict=False)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens of the answer; reasoning does not count."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The same as max_tokens; of two different numbers the smaller one holds."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    user: str | None = None
    """The client's own name for its user; not read and not kept."""

    @property
    def wants_usage_chunk(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def speaks_of_risk(self) -> bool:
        """Whether a user message of the conversation names acute risk in so many words."""
        return any(m.role == "user" and speaks_of_risk(m.content) for m in self.messages)

    def answer_limit(self, most: int) -> int:
        """Tokens that the answer may have, `most` or what the client asks for."""
        return min(self.max_completion_tokens or most, self.max_tokens or most, most)


_AS_IT_IS: Mapping[str, Any] = {
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logprobs": False,
    "stop": [],
    "tools": [],
    "tool_choice": "none",
    "logit_bias": {},
    "response_format": {"type": "text"},
    "store": False,
}
"""Keys that other clients send although their value asks for nothing: with it they are no error."""


def read_request(
    body: bytes, *, model_name: str, system_message: Literal["refuse", "take"] = "refuse"
) -> ChatRequest:
    """Check the body of a request.

    Args:
        body: As it came.
        model_name: Model name of the model that is served.
        system_message: Whether the conversation may begin with one.

    Raises:
        ApiError: It is not a request that this server answers; the text says why, without quoting content.
    """
    try:
        sent = from_json(body, allow_inf_nan=False)
    except (
        ValueError
    ) as error:  # its text names place and rule: "recursion limit exceeded at line 1 column 202"
        raise ApiError(400, f"the body is not JSON that can be read: {error}", code="invalid_json") from None
    try:
        request = ChatRequest.model_validate(_asked(sent))
    except ValidationError as error:
        raise _refusal(error) from None
    if request.model not in (None, model_name):
        raise ApiError(
            404, f"this server has one model, {model_name!r}", code="model_not_found", param="model"
        )
    _check_roles([message.role for message in request.messages], system_message)
    return request


def _asked(sent: Any) -> Any:
    """The keys that ask for something: null asks for nothing."""
    if not isinstance(sent, dict):
        return sent
    asked = {key: value for key, value in sent.items() if value is not None and not _is_as_it_is(key, value)}
    if isinstance(messages := asked.get("messages"), list):
        asked["messages"] = [
            {key: value for key, value in message.items() if value is not None}
            if isinstance(message, dict)
            else message
            for message in messages
        ]
    return asked


def _is_as_it_is(key: str, value: Any) -> bool:
    idle = _AS_IT_IS.get(key)
    return value == idle and isinstance(value, bool) == isinstance(idle, bool)


def _check_roles(roles: Sequence[Role], system_message: Literal["refuse", "take"]) -> None:
    if "system" in roles and system_message == "refuse":
        raise ApiError(
            400,
            "this server takes no system message: the model answers as it was trained to; send user and assistant "
            "messages only (serve.system_message: take lets system messages in, where the model was trained "
            "without one)",
            code="system_message_not_allowed",
            param="messages",
        )
    if "system" in roles[1:]:
        raise ApiError(400, "a system message comes first", code="invalid_value", param="messages")
    if roles[-1] != "user":
        raise ApiError(400, "the last message must be the user's", code="invalid_value", param="messages")


def _refusal(error: ValidationError) -> ApiError:
    errors = error.errors(include_input=False, include_url=False, include_context=False)
    unknown = [_place(e["loc"]) for e in errors if e["type"] == "extra_forbidden"]
    if unknown:
        within: dict[str, type[BaseModel]] = {"messages": ChatMessage, "stream_options": StreamOptions}
        outer, dot, _ = unknown[0].partition(".")
        keys = ", ".join((within[outer] if dot else ChatRequest).model_fields)
        text = f"{', '.join(unknown)}: not supported; leave it out (supported here: {keys})"
        return ApiError(400, text, code="unsupported_parameter", param=unknown[0])
    place = _place(errors[0]["loc"])
    message = f"{place}: {errors[0]['msg']}" if place else "the body must be a JSON object with messages"
    return ApiError(400, message, code="invalid_value", param=place or None)


def _place(location: Sequence[int | str]) -> str:
    """Where in the body; a key that is no plain name may be anything that the client wrote, and is not repeated."""
    return ".".join(
        str(part)
        if isinstance(part, int) or re.fullmatch(r"[A-Za-z_]\w{0,40}", part, re.ASCII)
        else "(a key)"
        for part in location
    )


def completion_body(
    *, reply_id: str, model: str, message: Mapping[str, Any], finish_reason: str, end: Mapping[str, Any]
) -> dict[str, Any]:
    """A whole reply; `end` holds usage and metadata."""
    choice = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}
    return {**_head(reply_id, model, "chat.completion"), "choices": [choice], **end}


def chunk(
    *, reply_id: str, model: str, choices: Sequence[Mapping[str, Any]], end: Mapping[str, Any] | None = None
) -> bytes:
    """One event of a streamed reply; the last carries the end."""
    return event({**_head(reply_id, model, "chat.completion.chunk"), "choices": choices, **(end or {})})


def delta(part: Mapping[str, Any], finish_reason: str | None = None) -> list[dict[str, Any]]:
    """The choices of a chunk."""
    return [{"index": 0, "delta": part, "finish_reason": finish_reason, "logprobs": None}]


def event(body: Mapping[str, Any] | str) -> bytes:
    """A server-sent event.

    Many readers cut lines at more characters than the standard's line feed and carriage return (httpx does, as
    `str.splitlines`); inside JSON these can be escaped.
    """
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return f"data: {text.translate(_ESCAPED)}\n\n".encode()


def _head(reply_id: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": reply_id, "object": kind, "created": int(time.time()), "model": model}
