"""The language model as a deployment: `ray.serve.llm` with its engine (vLLM), giving raw text.

The model server is made inside the replica, so that neither the driver nor the ingress imports vLLM (10-25 s and
several hundred MiB each).
"""

import contextlib
import dataclasses
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rl_empathy.data.conversations import prompt_token_ids
from rl_empathy.errors import DataError
from rl_empathy.serving.cluster import close_grpc_door
from rl_empathy.serving.reply import Piece
from rl_empathy.types import Message

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # the model is a folder
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
_ENVIRONMENT_ON_CPU = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # "auto" binds every engine of a machine to the same core
    "TORCHDYNAMO_DISABLE": "1",  # compiled functions of the sampler take a C++ compiler and a path without a space
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the engine needs to know of the model and its room."""

    model_path: str
    model_name: str
    context_tokens: int
    """Longest prompt plus completion."""
    kv_cache_bytes: int
    """Memory of the key-value cache on a CPU."""
    num_cpus: float
    num_gpus: float
    takes_system_message: bool = False
    """Whether clients may send a system message, so that the chat template has to take it."""

    @property
    def bundles(self) -> list[dict[str, float]]:
        """Placement: the first bundle holds the server, each GPU has one."""
        if not self.num_gpus:
            return [{"CPU": self.num_cpus}]
        per_worker = {"GPU": min(self.num_gpus, 1.0)}
        rest = max(int(self.num_gpus), 1) - 1
        return [{"CPU": self.num_cpus, **per_worker}, *[dict(per_worker) for _ in range(rest)]]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the replica and its engine processes."""
        return _ENVIRONMENT if self.num_gpus else _ENVIRONMENT | _ENVIRONMENT_ON_CPU

    def engine_arguments(self) -> dict[str, Any]:
        shared = {
            "max_model_len": self.context_tokens,
            "generation_config": "vllm",  # no sampling defaults from the model's folder
            "enable_log_requests": False,
            "disable_log_stats": True,
        }
        if self.num_gpus:
            return {**shared, "tensor_parallel_size": max(int(self.num_gpus), 1)}
        return {
            **shared,
            "dtype": "float32",  # four times faster than bfloat16 on CPUs without it
            "enforce_eager": True,
            "kv_cache_memory_bytes": self.kv_cache_bytes,
            "max_num_seqs": 32,
        }

    def llm_config(self) -> Any:
        from ray.serve.llm import LLMConfig

        per_worker = {"GPU": min(self.num_gpus, 1.0)} if self.num_gpus else {"CPU": self.num_cpus}
        return LLMConfig(
            model_loading_config={"model_id": self.model_name, "model_source": self.model_path},
            accelerator_config={"kind": "gpu" if self.num_gpus else "cpu"},
            placement_group_config={"bundle_per_worker": per_worker},
            engine_kwargs=self.engine_arguments(),
            log_engine_metrics=False,
            runtime_env={"env_vars": self.environment},
        )


class PolicyServer:
    """Writes raw completions, delimiters and all."""

    async def __init__(self, settings: EngineSettings) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        close_grpc_door()
        self._settings = settings
        config = settings.llm_config()
        # A folder needs no download, and the task that would look for one imports vLLM a second time.
        config.get_or_create_callback().ctx.run_init_node = False
        self._server = _model_server(config, on_cpu=not settings.num_gpus)
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(settings.model_path)
        self._running = 0
        if settings.takes_system_message:
            self._check_template()
        await self._server.start()
        await self._warm_up()

    async def _warm_up(self) -> None:
        """Write one token: an engine may start and yet have no kernel for the model."""
        hello = [{"role": "user", "content": "Hello"}]
        async for piece in self.write(hello, system_prompt="", max_tokens=1, options={}):
            if piece.error:
                raise RuntimeError(
                    f"ModelError: vLLM loaded the model and could not write a token ({piece.error})"
                )

    def _check_template(self) -> None:
        asked = [{"role": "user", "content": "Hello"}]
        try:
            is_read = self._prompt([{"role": "system", "content": "Be brief."}, *asked]) != self._prompt(
                asked
            )
        except DataError:
            is_read = False
        if not is_read:
            raise RuntimeError(
                "ModelError: serve.system_message is take, but the model's chat template refuses a system message or "
                "drops it; set serve.system_message to refuse"
            )

    async def write(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        system_prompt: str,
        max_tokens: int,
        options: Mapping[str, Any],
    ) -> AsyncGenerator[Piece, None]:
        """Write one completion, piece by piece. Leaving the generator aborts the engine's request.

        Args:
            messages: The conversation as the client sent it; its text never becomes a role or end token.
            system_prompt: The instruction that the model was trained with; "" for none.
            max_tokens: Most tokens of the completion, which also ends where the model's context does.
            options: Options of `temperature`, `top_p`, `seed`, those that the client chose.
        """
        from ray.serve.llm.openai_api_models import CompletionRequest

        try:
            prompt = self._prompt(messages, system_prompt)
        except DataError:  # its text may hold the conversation
            yield Piece(error="not_taken")
            return
        room = self._settings.context_tokens - len(prompt)
        if room < 1:
            yield Piece(error="too_long")
            return
        request = CompletionRequest(
            model=self._settings.model_name,
            prompt=prompt,
            max_tokens=min(max_tokens, room),  # vLLM refuses what might not fit
            stream=True,
            return_token_ids=True,
            skip_special_tokens=False,  # delimiters may be special tokens
            spaces_between_special_tokens=False,
            **options,
        )
        self._running += 1
        try:
            async with contextlib.aclosing(await self._server.completions(request)) as batches:
                async for batch in batches:
                    for item in batch if isinstance(batch, list) else [batch]:
                        for piece in read_events(item, self._text_of):
                            yield dataclasses.replace(piece, prompt_tokens=len(prompt))
        except Exception as error:
            # The error itself would make its reader import vLLM, and may hold the conversation.
            logging.getLogger("ray.serve").error("the engine failed: %s", type(error).__name__)
            yield Piece(error="failed")
        finally:
            self._running -= 1

    def _prompt(self, messages: Sequence[Mapping[str, Any]], system_prompt: str = "") -> list[int]:
        conversation = [Message(role=m["role"], content=m["content"]) for m in messages]
        return prompt_token_ids(self._tokenizer, conversation, system_prompt=system_prompt)

    def _text_of(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids))

    async def running(self) -> int:
        """Completions that are being written."""
        return self._running

    async def check_health(self) -> None:
        """Ray Serve's health check: raises when the engine is dead, and the replica is replaced."""
        try:
            await self._server.check_health()
        except Exception as error:
            raise RuntimeError(f"the engine is not healthy: {type(error).__name__}") from None


def _model_server(config: Any, *, on_cpu: bool) -> Any:
    """Ray's model server, not started, without two things that cost a process of several hundred MiB each.

    Ray 2.60 has no setting for either: it sends telemetry to an actor that stays in the cluster even where usage
    statistics are off, and on a CPU it gives vLLM's worker a process of its own.
    """
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
    from ray.serve.llm import LLMServer

    class QuietServer(LLMServer):
        async def _start_engine(self) -> None:
            assert self.engine is not None
            await self.engine.start()

    class CpuEngine(VLLMEngine):
        def _prepare_engine_config(self, callback_ctx: Any) -> Any:
            arguments, frontend, vllm_config = super()._prepare_engine_config(callback_ctx)
            vllm_config.parallel_config.distributed_executor_backend = "uni"
            return arguments, frontend, vllm_config

    return QuietServer.sync_init(config, engine_cls=CpuEngine if on_cpu else None)


def read_events(item: Any, decode: Callable[[list[int]], str]) -> list[Piece]:
    """Read server-sent events of the engine, or an error object.

    Args:
        item: Events as text, which may hold any character but a line feed, or the error.
        decode: Makes text of token ids.
    """
    if not isinstance(item, str):
        return [Piece(error="not_taken" if item.error.code == 400 else "failed")]
    found = []
    for line in item.split("\n"):  # not `splitlines`, which also cuts at U+2028 inside the text
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        body = json.loads(line.removeprefix("data: "))
        if "error" in body:
            found.append(Piece(error="failed"))
            continue
        for choice in body["choices"]:
            found += _of_tokens(choice.get("text") or "", choice.get("token_ids") or [], decode)
            if choice.get("finish_reason"):
                found.append(Piece(finish_reason=choice["finish_reason"]))
    return found


def _of_tokens(text: str, ids: list[int], decode: Callable[[list[int]], str]) -> list[Piece]:
    """One piece a token where their texts join to the text, otherwise one piece for all."""
    if len(ids) > 1:  # the engine was faster than its reader
        texts = [decode([token]) for token in ids]
        if "".join(texts) == text:
            return [Piece(text=part, tokens=1) for part in texts]
    return [Piece(text=text, tokens=len(ids))] if text or ids else []
