"""The HTTP side: checks a request, asks the policy server, shapes the reply. Logs and errors carry no text."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException

from rl_empathy.config.sections import ServeConfig
from rl_empathy.data.risk import SAFE_REPLY
from rl_empathy.schema import OutputSchema
from rl_empathy.serving.cluster import close_grpc_door
from rl_empathy.serving.reply import Piece, Reply, usage_of
from rl_empathy.serving.schemas import (
    AT_RISK_HEADER,
    MAX_BODY_BYTES,
    NOTICE_HEADER,
    NOTICES,
    ApiError,
    ChatRequest,
    chunk,
    completion_body,
    delta,
    event,
    read_request,
)

ATTEMPTS = 2
"""At a reply whose model writes no answer."""
RETRY_TEMPERATURE = 0.7
"""Temperature of a second attempt at temperature 0, which would be the first once more."""
PIECE_S = 300.0
"""Deadline for the next piece of a reply, seconds; the first waits in the queue too."""
HEALTH_S = 5.0
HEADERS = {"X-Notice": NOTICE_HEADER, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

http = FastAPI(title="rl_empathy", docs_url=None, redoc_url=None, openapi_url=None)


@http.exception_handler(ApiError)
async def _refused(_: Request, error: Any) -> Response:
    return JSONResponse(error.body(), status_code=error.status, headers=HEADERS)


@http.exception_handler(HTTPException)
async def _not_served(request: Request, error: Any) -> Response:
    return await _refused(
        request, ApiError(error.status_code, "this server has no such route", code="not_found")
    )


@http.exception_handler(Exception)
async def _failed(request: Request, _: Any) -> Response:
    return await _refused(request, ApiError(500, "the server failed; its log has more", code="failed"))


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressSettings:
    """What the ingress needs to know."""

    model_name: str
    schema: OutputSchema
    system_prompt: str
    """The instruction that the model was trained with; "" for none."""
    language: str
    config: ServeConfig
    temperature: float
    """Temperature of a reply whose client asks for none: the one at which the model was evaluated."""


class Ingress:
    """OpenAI-compatible chat completions in front of the policy server."""

    def __init__(self, policy: DeploymentHandle, settings: IngressSettings) -> None:
        close_grpc_door()
        self._policy = policy
        self._settings = settings

    @http.get("/health")
    @http.get("/healthz")
    async def healthz(self) -> Response:
        """204 when a reply could be written, otherwise 503; never any content."""
        try:
            await asyncio.wait_for(self._policy.check_health.remote(), HEALTH_S)
        except Exception:
            return Response(status_code=503)
        return Response(status_code=204)

    @http.get("/v1/models")
    async def models(self) -> Response:
        """The one model."""
        card = {"id": self._settings.model_name, "object": "model", "created": 0, "owned_by": "rl_empathy"}
        return JSONResponse({"object": "list", "data": [card]}, headers=HEADERS)

    @http.post("/v1/chat/completions")
    async def chat_completions(self, request: Request) -> Response:
        """Answer a conversation, whole or streamed."""
        settings = self._settings
        chat = read_request(
            await _body(request),
            model_name=settings.model_name,
            system_message=settings.config.system_message,
        )
        if chat.speaks_of_risk:
            return self._safe(chat)
        reply = self._reply(chat)
        deltas = self._deltas(chat, reply)
        try:
            first = await anext(deltas)  # refusals come before the first byte, with a status of their own
        except BaseException:
            await deltas.aclose()
            raise
        if chat.stream:
            events = self._events(chat, reply, first, deltas)
            return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)
        async with contextlib.aclosing(deltas):
            async for _ in deltas:
                pass
        return self._whole(reply.message, reply.finish_reason, reply.end)

    def _whole(
        self,
        message: Mapping[str, Any],
        finish_reason: str,
        end: Mapping[str, Any],
        headers: Mapping[str, str] = HEADERS,
    ) -> Response:
        body = completion_body(
            reply_id=_reply_id(),
            model=self._settings.model_name,
            message=message,
            finish_reason=finish_reason,
            end=end,
        )
        return JSONResponse(body, headers=dict(headers))

    def _safe(self, chat: ChatRequest) -> Response:
        """The fixed reply to a conversation that names acute risk; the model is not asked."""
        text = SAFE_REPLY.get(self._settings.language, SAFE_REPLY["en"])
        metadata = {"notice": self._notice, "schema_valid": None, "safe_reply": "acute_risk"}
        end = {"usage": usage_of(0, 0, 0), "metadata": metadata}
        headers = HEADERS | AT_RISK_HEADER
        if not chat.stream:
            return self._whole({"role": "assistant", "content": text}, "stop", end, headers)
        head = self._head()
        events = [
            chunk(**head, choices=delta({"role": "assistant", "content": ""})),
            chunk(**head, choices=delta({"content": text})),
            *_last_events(chat, head, "stop", end),
        ]
        return Response(b"".join(events), media_type="text/event-stream", headers=headers)

    async def _events(
        self,
        chat: ChatRequest,
        reply: Reply,
        first: Sequence[Mapping[str, str]],
        deltas: AsyncGenerator[list[dict[str, str]], None],
    ) -> AsyncIterator[bytes]:
        head = self._head()
        async with contextlib.aclosing(deltas):
            try:
                yield chunk(**head, choices=delta({"role": "assistant", "content": ""}))
                for part in first:
                    yield chunk(**head, choices=delta(part))
                async for parts in deltas:
                    for part in parts:
                        yield chunk(**head, choices=delta(part))
            except ApiError as error:
                yield event(error.body())
                return
        for last in _last_events(chat, head, reply.finish_reason, reply.end):
            yield last

    async def _deltas(self, chat: ChatRequest, reply: Reply) -> AsyncGenerator[list[dict[str, str]], None]:
        """What the model writes, piece by piece; once more where it writes no answer."""
        for attempt in range(ATTEMPTS):
            if attempt:
                reply.begin()
            async with contextlib.aclosing(self._pieces(chat, attempt)) as pieces:
                async for piece in pieces:
                    yield reply.feed(piece)
                    if reply.is_over:
                        break
            yield reply.close()
            if reply.has_answer:
                return
        raise ApiError(
            502,
            f"the model wrote no answer in {ATTEMPTS} attempts; ask again, or raise serve.max_reasoning_tokens if its "
            "reasoning is cut off",
            code="no_answer",
        )

    async def _pieces(self, chat: ChatRequest, attempt: int) -> AsyncGenerator[Piece, None]:
        """The pieces of one attempt; leaving early, as when the client is gone, aborts the generation."""
        config = self._settings.config
        stream = self._policy.options(stream=True).write.remote(
            [{"role": m.role, "content": m.content} for m in chat.messages],
            system_prompt=self._settings.system_prompt,
            # One more than is shown: whether the answer ends at its limit is known only then.
            max_tokens=chat.answer_limit(config.max_completion_tokens) + config.max_reasoning_tokens + 1,
            options=self._options(chat, attempt),
        )
        try:
            while (piece := await _next(stream)) is not None:
                if piece.error == "too_long":
                    raise ApiError(
                        400,
                        "the conversation is longer than the model can read",
                        code="context_length_exceeded",
                        param="messages",
                    )
                if piece.error == "not_taken":
                    raise ApiError(
                        400,
                        "the model's chat template or engine does not take this conversation; user and assistant "
                        "messages that alternate, the user's first, are taken by all",
                        code="conversation_not_taken",
                        param="messages",
                    )
                if piece.error:
                    raise ApiError(500, "the model failed; the server's log has more", code="model_failed")
                yield piece
        finally:
            stream.cancel()

    def _options(self, chat: ChatRequest, attempt: int) -> dict[str, Any]:
        options: dict[str, Any] = {"temperature": self._settings.temperature}
        options |= chat.model_dump(include={"temperature", "top_p", "seed"}, exclude_none=True)
        if attempt and options["temperature"] == 0:
            options["temperature"] = RETRY_TEMPERATURE
        if attempt and "seed" in options:  # the same one would write the same
            options["seed"] = (options["seed"] + attempt) % 2**63
        return options

    def _reply(self, chat: ChatRequest) -> Reply:
        config = self._settings.config
        return Reply(
            self._settings.schema,
            show_reasoning=config.show_reasoning,
            notice=self._notice,
            max_answer_tokens=chat.answer_limit(config.max_completion_tokens),
            max_other_tokens=config.max_reasoning_tokens,
        )

    @property
    def _notice(self) -> str:
        return NOTICES.get(self._settings.language, NOTICES["en"])

    def _head(self) -> dict[str, Any]:
        return {"reply_id": _reply_id(), "model": self._settings.model_name}


def _last_events(
    chat: ChatRequest, head: Mapping[str, Any], finish_reason: str, end: Mapping[str, Any]
) -> list[bytes]:
    """The events that end a stream."""
    usage = [chunk(**head, choices=[], end=end)] if chat.wants_usage_chunk else []
    return [chunk(**head, choices=delta({}, finish_reason), end=end), *usage, event("[DONE]")]


async def _next(stream: Any) -> Piece | None:
    """The next piece, or None at the end."""
    try:
        return await asyncio.wait_for(anext(stream), PIECE_S)
    except StopAsyncIteration:
        return None
    except TimeoutError:
        raise ApiError(504, f"the model wrote nothing for {PIECE_S:.0f} s", code="timeout") from None
    except Exception as error:
        # Only its kind: the text of an error from below may hold the conversation.
        logging.getLogger("ray.serve").error("the policy server failed: %s", type(error).__name__)
        raise ApiError(500, "the model failed; the server's log has more", code="model_failed") from None


async def _body(request: Request) -> bytes:
    """Read the body up to the limit; a browser's form from another site is not JSON by its type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(400, "the content type must be application/json", code="invalid_content_type")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(413, f"the body is longer than {MAX_BODY_BYTES} bytes", code="body_too_large")
    return bytes(body)


def _reply_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
