"""vLLM inside this process: one thread owns the engine and does three verbs in turn: admit, step, collect.

    asyncio side                     engine thread
    sample(...)      ── command ──>  admit: requests enter, salted with the version they meet
                                     step:  one token for every running sequence
                     <── future ───  collect: finished groups, every token with its version
    load_weights(..) ── command ──>  between two steps: running requests go on with the new weights

In-process the engine needs half the memory and a third of the start-up time of vLLM's own server processes, and a
load needs no pause: nothing runs while the thread loads.
"""

import asyncio
import logging
import queue
import threading
import time
from dataclasses import dataclass
from typing import Any

import torch

from rl_empathy.config.sections import SamplingConfig
from rl_empathy.engines.requests import Command, Request
from rl_empathy.engines.vllm_engine import completion_of, sampling_params, set_environment, start_vllm
from rl_empathy.engines.weight_arrays import PublishedWeights
from rl_empathy.errors import RoleDiedError, VoidedError, WeightSyncError
from rl_empathy.types import PolicyVersion, Prompt, RolloutGroup

LOOK_S = 0.1
"""How often one looks whether a step has ended."""
HANGS_AFTER = 10.0
"""A step that takes so many times as long as the longest before it hangs."""
HANGS_AFTER_S = 10.0
"""And no sooner than this."""


@dataclass
class EngineStats:
    """Counters since the start."""

    busy_s: float = 0.0
    longest_step_s: float = 0.0


class GenerationEngine:
    """Samples groups with vLLM and takes new weights between two steps."""

    def __init__(
        self,
        model_path: str,
        *,
        dtype: str,
        max_model_tokens: int,
        max_running_sequences: int,
        kv_cache_mib: int,
        seed: int,
        prefix_caching: bool,
        clear_cache_on_load: bool,
    ) -> None:
        """Start vLLM (5-60 s).

        Args:
            model_path: Folder of a transformers model with its tokenizer.
            dtype: "float32" or "bfloat16".
            max_model_tokens: Longest prompt plus completion.
            max_running_sequences: Completions written at the same time.
            kv_cache_mib: Memory of the key-value cache, MiB.
            seed: Seed of requests that bring none.
            prefix_caching: Share the key-value cache of equal beginnings (of the same policy version).
            clear_cache_on_load: Forget that cache at every load.

        Raises:
            ModelError: vLLM cannot load the model; the text carries its reason.
        """
        set_environment()
        self._clear_cache_on_load = clear_cache_on_load
        self._version = PolicyVersion(0, 0)
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._waiting: list[Request] = []
        self._running: dict[str, Request] = {}
        self._ended = threading.Event()
        self._step_began: float | None = None
        self._reason = "it was stopped"
        self.stats = EngineStats()
        self._engine = start_vllm(
            model_path,
            dtype=dtype,
            max_model_len=max_model_tokens,
            max_num_seqs=max_running_sequences,
            kv_cache_memory_bytes=None if torch.cuda.is_available() else kv_cache_mib << 20,
            seed=seed,
            enable_prefix_caching=prefix_caching,
        )
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    @property
    def version(self) -> PolicyVersion:
        return self._version

    async def sample(
        self, prompt: Prompt, *, sampling: SamplingConfig, group_size: int, seed: int, together: int = 1
    ) -> RolloutGroup:
        """Write the completions of one prompt.

        Args:
            prompt: What to answer.
            sampling: Temperature and length.
            group_size: Completions wanted.
            seed: Completion i is drawn with seed + i.
            together: Admit only when this many requests wait, then all of them in order of occurrence: with it the
                engine does the same work in the same order whenever the requests arrive.

        Returns:
            The group, every token with its policy version.

        Raises:
            RoleDiedError: The engine failed and takes no further work.
            VoidedError: vLLM broke a completion off, or a load gave the group up.
        """
        loop = asyncio.get_running_loop()
        request = Request(prompt, sampling, group_size, seed, together, loop.create_future(), loop)
        self._post(Command(lambda: self._enter(request), request.resolve))
        return await request.future

    async def load_weights(self, weights: PublishedWeights, *, whole: bool = False) -> float:
        """Replace the weights between two steps; running completions go on with the new ones.

        Those of another attempt are given up: a rollback has undone the weights that wrote them.

        Args:
            weights: Every tensor of the new version.
            whole: Give up everything under way, whatever wrote it.

        Returns:
            Seconds for which running requests stood still.

        Raises:
            WeightSyncError: The load failed, and with it the engine: it may hold half of each version.
            RoleDiedError: The engine had failed before.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[float] = loop.create_future()

        def load() -> None:
            try:
                if whole or weights.version.attempt != self._version.attempt:
                    self._give_up(weights.version)
                seconds = self._load(weights)
            except Exception as error:
                broken = WeightSyncError(
                    f"the engine broke a load of policy version {weights.version} off: {type(error).__name__}: {error}"
                )
                loop.call_soon_threadsafe(future.set_exception, broken)
                raise  # half-loaded weights must never write a token: the engine ends
            loop.call_soon_threadsafe(future.set_result, seconds)

        self._post(Command(load, lambda error: loop.call_soon_threadsafe(future.set_exception, error)))
        return await future

    async def alive(self) -> None:
        """Return, unless the thread hangs in a step: then not before it ends.

        What is long for a step depends on the model and the machine, so the steps before it say; the first one has
        the deadline of a group only.
        """
        while self._hangs() and not self._ended.is_set():
            await asyncio.sleep(LOOK_S)

    def _hangs(self) -> bool:
        began, longest = self._step_began, self.stats.longest_step_s
        limit = max(HANGS_AFTER_S, HANGS_AFTER * longest)
        return began is not None and longest > 0 and time.monotonic() - began > limit

    def stop(self) -> None:
        """End the thread after the step under way; waiting requests fail."""
        self._commands.put(None)
        self._thread.join(timeout=30)

    def _post(self, command: Command) -> None:
        """Hand a command to the thread; looked at twice, since the thread may end in between."""
        if not self._ended.is_set():
            self._commands.put(command)
        if self._ended.is_set():
            raise self._end()

    def _end(self) -> RoleDiedError:
        return RoleDiedError(f"the generation engine takes no more work: {self._reason}")

    def _run(self) -> None:
        try:
            while self._serve_commands():
                if self._running:
                    started = self._step_began = time.monotonic()
                    self._collect(self._engine.step())
                    self._step_began = None
                    seconds = time.monotonic() - started
                    self.stats.longest_step_s = max(self.stats.longest_step_s, seconds)
                    self.stats.busy_s += seconds
        except Exception as error:
            self._reason = f"{type(error).__name__}: {error}"
            logging.getLogger(__name__).exception("the generation engine failed")
        finally:
            self._ended.set()
            while not self._commands.empty():
                if command := self._commands.get():
                    command.fail(self._end())
            for request in [*self._waiting, *self._running.values()]:
                request.resolve(self._end())

    def _serve_commands(self) -> bool:
        """Do everything that was asked for; sleep only while there is nothing to generate. False: stop."""
        while not self._commands.empty() or not self._running:
            command = self._commands.get()
            if command is None:
                return False
            command.run()
        return True

    def _enter(self, request: Request) -> None:
        self._waiting.append(request)
        if len(self._waiting) >= request.together:
            for waiting in sorted(self._waiting, key=lambda r: r.prompt.occurrence):
                self._admit(waiting)
            self._waiting.clear()

    def _admit(self, request: Request) -> None:
        name = f"{request.prompt.occurrence}-{id(request)}"
        params = sampling_params(request.sampling, group_size=request.group_size, seed=request.seed)
        request.admitted = self._version
        try:
            self._engine.add_request(name, self._engine_prompt(request.prompt), params)
        except ValueError as error:  # too long for the engine: this request's failure, not the engine's
            request.resolve(error)
            return
        self._running[name] = request

    def _engine_prompt(self, prompt: Prompt) -> dict[str, Any]:
        """Salted, so that a new prompt never meets prefix-cache entries of older weights."""
        return {"prompt_token_ids": list(prompt.token_ids), "cache_salt": str(self._version)}

    def _collect(self, outputs: list[Any]) -> None:
        for output in outputs:
            if output.finished:
                request = self._running[output.request_id]
                broken = {part.finish_reason for part in output.outputs} - {"stop", "length"}
                if broken:
                    reasons = ", ".join(map(str, broken))
                    request.resolve(
                        VoidedError(f"vLLM broke off a completion of {request.prompt.row.id}: {reasons}")
                    )
                else:
                    request.resolve(self._group_of(request, output))
                del self._running[output.request_id]  # only now: what fails before is failed with the engine

    def _group_of(self, request: Request, output: Any) -> RolloutGroup:
        assert request.admitted is not None
        completions = tuple(
            completion_of(part) for part in sorted(output.outputs, key=lambda part: part.index)
        )
        return RolloutGroup(prompt=request.prompt, completions=completions, admitted=request.admitted)

    def _give_up(self, version: PolicyVersion) -> None:
        self._engine.abort_request(list(self._running))
        for request in [*self._waiting, *self._running.values()]:
            request.resolve(VoidedError(f"{request.prompt.row.id} was given up for policy version {version}"))
        self._waiting.clear()
        self._running.clear()
        self._engine.reset_prefix_cache()

    def _load(self, weights: PublishedWeights) -> float:
        started = time.monotonic()
        self._engine.collective_rpc("start_weight_update")
        self._engine.collective_rpc("update_weights", kwargs={"update_info": {"weights": weights.tensors()}})
        self._engine.collective_rpc("finish_weight_update")
        self._engine.set_weight_version(str(weights.version))
        if self._clear_cache_on_load:
            self._engine.reset_prefix_cache()
        self._version = weights.version
        return time.monotonic() - started
