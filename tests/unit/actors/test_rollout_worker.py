"""The mailbox of a rollout worker, before an engine that only remembers."""

import asyncio
from types import SimpleNamespace

import pytest

from rl_empathy.actors import rollout_worker
from rl_empathy.actors.rollout_worker import RolloutWorker
from rl_empathy.engines.weight_arrays import PublishedWeights
from rl_empathy.errors import WeightSyncError
from rl_empathy.types import PolicyVersion


class RememberingEngine:
    def __init__(self, model_path, **settings):
        self.stats = SimpleNamespace(busy_s=0.0)
        self.loaded = []

    async def load_weights(self, weights, *, whole):
        self.loaded.append(weights.version)
        return 0.0

    @property
    def version(self):
        return self.loaded[-1]


def weights(attempt: int, number: int) -> PublishedWeights:
    return PublishedWeights(version=PolicyVersion(attempt, number), arrays={}, dtypes={})


@pytest.fixture
def worker(monkeypatch) -> RolloutWorker:
    monkeypatch.setattr(rollout_worker, "GenerationEngine", RememberingEngine)
    monkeypatch.setattr(rollout_worker, "divert_output", lambda log: None)
    return RolloutWorker(
        "rollout_worker_0", "model", "log", dtype="float32", max_model_tokens=8, max_running_sequences=1,
        kv_cache_mib=1, seed=0, synchronous=True, deterministic=True,
    )  # fmt: skip


def test_a_load_that_was_overtaken_does_not_bring_the_weights_of_an_undone_attempt_back(worker):
    """Load 3 was on its way when the trainer died; load 4, of the next attempt, is there first."""
    asyncio.run(worker.load_weights(weights(1, 2), False, 2))
    asyncio.run(worker.load_weights(weights(2, 0), True, 4))
    with pytest.raises(WeightSyncError, match=r"load 3, of policy version 1\.3, came after load 4"):
        asyncio.run(worker.load_weights(weights(1, 3), False, 3))
    assert worker._engine.loaded == [PolicyVersion(1, 2), PolicyVersion(2, 0)]


def test_the_same_load_may_be_asked_for_again_by_who_did_not_hear_of_it(worker):
    for _ in range(2):
        held, _ = asyncio.run(worker.load_weights(weights(1, 1), True, 1))
        assert held == PolicyVersion(1, 1)
