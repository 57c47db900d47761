"""The HTTP side: checks a request, asks the policy server, shapes the reply. Logs and errors carry no text (C9)."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException

from rl_empathy.schema import OutputSchema
from rl_empathy.serving.reply import Piece, Reply
from rl_empathy.serving.schemas import (
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
    show_reasoning: bool
    max_completion_tokens: int
    temperature: float
    """Of a reply whose client asks for none: the one at which the model was evaluated."""


class Ingress:
    """OpenAI-compatible chat completions in front of the policy server."""

    def __init__(self, policy: DeploymentHandle, settings: IngressSettings) -> None:
        self._policy = policy
        self._settings = settings

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
        chat = read_request(await _body(request), model_name=self._settings.model_name)
        pieces = self._pieces(chat)
        try:
            first = await anext(pieces)  # refusals come before the first byte, with a status of their own
        except BaseException:
            await pieces.aclose()
            raise
        if chat.stream:
            events = self._events(chat, first, pieces)
            return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)
        return await self._whole(first, pieces)

    async def _whole(self, first: Piece, pieces: AsyncGenerator[Piece, None]) -> Response:
        reply = self._reply()
        async with contextlib.aclosing(pieces):
            reply.feed(first)
            async for piece in pieces:
                reply.feed(piece)
        reply.close()
        body = completion_body(
            reply_id=_reply_id(),
            model=self._settings.model_name,
            message=reply.message,
            finish_reason=reply.finish_reason,
            end=reply.end,
        )
        return JSONResponse(body, headers=HEADERS)

    async def _events(
        self, chat: ChatRequest, first: Piece, pieces: AsyncGenerator[Piece, None]
    ) -> AsyncIterator[bytes]:
        reply = self._reply()
        head: dict[str, Any] = {"reply_id": _reply_id(), "model": self._settings.model_name}
        async with contextlib.aclosing(pieces):
            try:
                yield chunk(**head, choices=delta({"role": "assistant", "content": ""}))
                for part in reply.feed(first):
                    yield chunk(**head, choices=delta(part))
                async for piece in pieces:
                    for part in reply.feed(piece):
                        yield chunk(**head, choices=delta(part))
            except ApiError as error:
                yield event(error.body())
                return
        for part in reply.close():
            yield chunk(**head, choices=delta(part))
        yield chunk(**head, choices=delta({}, reply.finish_reason), end=reply.end)
        if chat.wants_usage_chunk:
            yield chunk(**head, choices=[], end=reply.end)
        yield event("[DONE]")

    async def _pieces(self, chat: ChatRequest) -> AsyncGenerator[Piece, None]:
        """The pieces of one reply; leaving early, as when the client is gone, aborts the generation."""
        options = {"temperature": self._settings.temperature}
        options |= chat.model_dump(include={"temperature", "top_p", "seed"}, exclude_none=True)
        stream = self._policy.options(stream=True).write.remote(
            self._messages(chat),
            max_tokens=chat.completion_limit(self._settings.max_completion_tokens),
            options=options,
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
                if piece.error:
                    raise ApiError(500, "the model failed; the server's log has more", code="model_failed")
                yield piece
        finally:
            stream.cancel()

    def _messages(self, chat: ChatRequest) -> list[dict[str, str]]:
        prompt = self._settings.system_prompt
        system = [{"role": "system", "content": prompt}] if prompt else []
        return [*system, *({"role": m.role, "content": m.content} for m in chat.messages)]

    def _reply(self) -> Reply:
        settings = self._settings
        notice = NOTICES.get(settings.language, NOTICES["en"])
        return Reply(settings.schema, show_reasoning=settings.show_reasoning, notice=notice)


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
