"""The generation engine's thread: whatever happens to vLLM, nobody waits for ever. vLLM itself is in exactness.py."""

import asyncio
import sys
import threading
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from rl_empathy.config.sections import SamplingConfig
from rl_empathy.engines import generation
from rl_empathy.engines.generation import GenerationEngine
from rl_empathy.engines.weight_arrays import PublishedWeights
from rl_empathy.errors import RoleDiedError, VoidedError, WeightSyncError
from rl_empathy.types import PolicyVersion
from tests.fakes import make_prompt

WEIGHTS = PublishedWeights.of({}, PolicyVersion(0, 1))


class BreaksOff:
    """In vLLM's place: every request ends at once, with `reason`; weights cannot be loaded."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.requests: list[str] = []
        self.loading, self.may_fail = threading.Event(), threading.Event()

    def add_request(self, name, *_):
        self.requests.append(name)

    def step(self):
        completion = SimpleNamespace(
            index=0, token_ids=[5, 2], logprobs=[{token: SimpleNamespace(logprob=-1.0)} for token in (5, 2)],
            weight_versions=[SimpleNamespace(version="1.0", start=0, end=2)], finish_reason=self.reason, text="text",
        )  # fmt: skip
        ended, self.requests = self.requests, []
        return [SimpleNamespace(request_id=name, finished=True, outputs=[completion]) for name in ended]

    def abort_request(self, names):
        self.aborted = names

    def reset_prefix_cache(self):
        pass

    def collective_rpc(self, *_, **__):
        self.loading.set()
        self.may_fail.wait(30)
        raise RuntimeError("the weights do not fit")


def make_engine(monkeypatch, vllm: BreaksOff) -> GenerationEngine:
    package, parameters = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    package.SamplingParams, parameters.RequestOutputKind = dict, SimpleNamespace(FINAL_ONLY=2)
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", parameters)
    monkeypatch.setattr(generation, "start_vllm", lambda *_, **__: vllm)
    return GenerationEngine(
        "model", dtype="float32", max_model_tokens=64, max_running_sequences=4, kv_cache_mib=1, seed=0,
        prefix_caching=True, clear_cache_on_load=False,
    )  # fmt: skip


async def sample(engine: GenerationEngine, **settings):
    asked = engine.sample(make_prompt(), sampling=SamplingConfig(), group_size=1, seed=0, **settings)
    return await asyncio.wait_for(asked, 30)


def test_a_completion_that_was_broken_off_is_no_completion_and_the_engine_goes_on(monkeypatch):
    vllm = BreaksOff("abort")
    engine = make_engine(monkeypatch, vllm)
    with pytest.raises(VoidedError, match="broke off a completion of row-0: abort"):
        asyncio.run(sample(engine))
    vllm.reason = "stop"
    assert asyncio.run(sample(engine)).completions[0].token_ids == (5, 2)
    engine.stop()


def test_when_a_load_fails_everybody_who_waits_is_told_and_nobody_is_served_any_more(monkeypatch):
    vllm = BreaksOff("stop")
    engine = make_engine(monkeypatch, vllm)

    async def three() -> list[BaseException | object]:
        alone_of_two = asyncio.create_task(sample(engine, together=2))
        await asyncio.sleep(0)
        first = asyncio.create_task(engine.load_weights(WEIGHTS))
        await asyncio.to_thread(vllm.loading.wait, 30)
        second = asyncio.create_task(engine.load_weights(WEIGHTS))
        await asyncio.sleep(0)
        vllm.may_fail.set()
        waiting = asyncio.gather(alone_of_two, first, second, return_exceptions=True)
        return await asyncio.wait_for(waiting, 30)

    errors = asyncio.run(three())
    assert [type(error) for error in errors] == [RoleDiedError, WeightSyncError, RoleDiedError]
    assert "the weights do not fit" in str(errors[0])
    assert "broke a load of policy version 0.1 off: RuntimeError: the weights do not fit" in str(errors[1])
    with pytest.raises(RoleDiedError, match="takes no more work"):
        asyncio.run(sample(engine))


@pytest.mark.parametrize(("version", "whole"), [(PolicyVersion(1, 0), False), (PolicyVersion(0, 1), True)])
def test_a_load_that_is_whole_or_of_another_attempt_gives_up_what_is_under_way(monkeypatch, version, whole):
    vllm = BreaksOff("stop")
    vllm.may_fail.set()
    engine = make_engine(monkeypatch, vllm)

    async def load_while_one_waits() -> tuple[BaseException, BaseException]:
        waits = asyncio.create_task(sample(engine, together=2))
        await asyncio.sleep(0)
        loading = asyncio.create_task(engine.load_weights(replace(WEIGHTS, version=version), whole=whole))
        return await asyncio.wait_for(asyncio.gather(waits, loading, return_exceptions=True), 30)

    given_up, _ = asyncio.run(load_while_one_waits())
    assert isinstance(given_up, VoidedError)
    assert f"was given up for policy version {version}" in str(given_up)
