"""What a client may send and what it gets back, in the shapes of OpenAI's chat completions."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from rl_empathy.types import Role

MAX_BODY_BYTES = 128 << 10
MAX_MESSAGES = 200

NOTICE_HEADER = "AI, not a clinician."
NOTICES: Mapping[str, str] = {
    "en": "AI, not a clinician. A language model wrote this reply; it can be wrong and cannot help in an "
    "emergency. If you or somebody else is in danger, call the emergency number where you are.",
    "zh": "AI, not a clinician. 本回复由人工智能语言模型生成，不是临床医生；内容可能有误，也无法应对紧急情况。"
    "如果您或他人处于危险之中，请立即拨打当地的急救电话。",
}


class ApiError(Exception):
    """A refusal in OpenAI's shape. Its text never repeats what the client wrote (C9)."""

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
    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class ChatMessage(_Read):
    """One message; a content given in parts must be all text."""

    role: Role
    content: str

    @field_validator("content", mode="before")
    @classmethod
    def _join_text_parts(cls, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise ValueError("only parts of type text are understood")
        return "".join(str(part.get("text", "")) for part in content)


class StreamOptions(_Read):
    """Options of a streamed reply."""

    include_usage: bool = False
    """End with a chunk of its own for the usage."""


class ChatRequest(_Read):
    """The body of a chat completion request; fields that are not listed here have no effect."""

    model: str | None = None
    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    n: Literal[1] | None = None
    """One reply a request."""

    @property
    def wants_usage_chunk(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def completion_limit(self, most: int) -> int:
        """Tokens that the reply may have, `most` or what the client asks for."""
        return min(self.max_completion_tokens or self.max_tokens or most, most)


def read_request(body: bytes, *, model_name: str) -> ChatRequest:
    """Check the body of a request.

    Raises:
        ApiError: It is not a request that this server answers; the text says why, without quoting it.
    """
    try:
        request = ChatRequest.model_validate(json.loads(body))
    except ValidationError as error:
        raise _refusal(error) from None
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON", code="invalid_json") from None
    if request.model not in (None, model_name):
        raise ApiError(
            404, f"this server has one model, {model_name!r}", code="model_not_found", param="model"
        )
    if any(message.role == "system" for message in request.messages):
        raise ApiError(
            400,
            "the system message is set by this server, since the model was trained with it; send only user and "
            "assistant messages",
            code="system_message_not_allowed",
            param="messages",
        )
    if request.messages[-1].role != "user":
        raise ApiError(400, "the last message must be the user's", code="invalid_value", param="messages")
    return request


def _refusal(error: ValidationError) -> ApiError:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    # Only names of our own fields and positions go back: keys of the client's making are its text.
    known = set(ChatRequest.model_fields) | set(ChatMessage.model_fields) | set(StreamOptions.model_fields)
    place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in known)
    message = f"{place}: {first['msg']}" if place else "the body must be a JSON object with messages"
    return ApiError(400, message, code="invalid_value", param=place or None)


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
    """A server-sent event."""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


def _head(reply_id: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": reply_id, "object": kind, "created": int(time.time()), "model": model}
