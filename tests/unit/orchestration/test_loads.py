"""How long published weights stay in the object store, and where a worker that comes later gets them."""

import asyncio
import gc
import weakref
from dataclasses import replace
from typing import ClassVar

from rl_empathy.config.sections import DeadlinesConfig, RestartsConfig
from rl_empathy.errors import RoleDiedError
from rl_empathy.orchestration.fleet.restarts import RestartBudget
from rl_empathy.orchestration.fleet.workers.rollout_workers import RolloutWorkers
from rl_empathy.orchestration.weight_channels.object_store import StoredWeights
from rl_empathy.types import PolicyVersion
from tests.fakes import endless
from tests.virtual_clock import run_virtually


class Published:
    """Stands for a reference into the object store: what nobody refers to any more is freed."""

    living: ClassVar = weakref.WeakSet()

    def __init__(self, version: PolicyVersion) -> None:
        self.version = version
        self.living.add(self)

    @classmethod
    def count(cls) -> int:
        gc.collect()
        return len(cls.living)


class LoadingActor:
    """Takes so long for its second load, and 0.1 s for every other."""

    def __init__(self, load_s: float) -> None:
        self.load_weights = self
        self._load_s = iter([0.1, load_s])

    async def remote(self, weights, whole, number):
        await asyncio.sleep(next(self._load_s, 0.1))
        return weights.version, {"pause_s": 0.0, "busy_s": 0.0}


class Trainer:
    """Has one version after the other; counts how often it was asked for it."""

    def __init__(self) -> None:
        self.version = PolicyVersion(1, 0)
        self.idle = asyncio.Event()
        self.idle.set()
        self.asked = 0

    def next_weights(self) -> Published:
        self.version = PolicyVersion(1, self.version.number + 1)
        return Published(self.version)

    async def offer(self):
        await self.idle.wait()
        self.asked += 1
        return StoredWeights(Published(self.version), self.version)


def workers_of(*load_s: float, told: list[str]) -> RolloutWorkers:
    async def start(name):
        await asyncio.sleep(5)
        return replace(endless(name), actor=LoadingActor(1.0))

    return RolloutWorkers(
        [replace(endless(f"rollout_worker_{i}"), actor=LoadingActor(s)) for i, s in enumerate(load_s)],
        start,
        DeadlinesConfig(publish_s=10),
        RestartBudget(RestartsConfig(), told.append),
        max_running_sequences=lambda: 8,
        seed=0,
        in_step=False,
        tell=told.append,
    )


async def publish(workers: RolloutWorkers, trainer: Trainer) -> None:
    weights = trainer.next_weights()
    assert Published.count() == 1, "the copy before was let go first"
    await workers.load(StoredWeights(weights, trainer.version), trainer.offer)


def test_a_node_holds_one_copy_of_the_weights_and_none_when_every_worker_has_loaded_it():
    async def run():
        workers, trainer = workers_of(0.1, 3.0, told=[]), Trainer()
        for _ in range(3):
            await publish(workers, trainer)
            assert Published.count() == 0
        assert trainer.asked == 0

    run_virtually(run())


def test_a_worker_that_comes_later_gets_the_weights_anew():
    async def run():
        told: list[str] = []
        workers, trainer = workers_of(0.1, 0.1, told=told), Trainer()
        await publish(workers, trainer)
        workers.roster.lost(workers.attendance.ready()[1], RoleDiedError("it is gone"))
        assert workers.num_ready == 1
        await asyncio.sleep(5.05)
        assert Published.count() == 1, "it loads"
        await asyncio.sleep(1)
        assert workers.num_ready == 2
        assert trainer.asked == 1
        assert Published.count() == 0
        await publish(workers, trainer)

    run_virtually(run())


def test_a_worker_that_comes_during_an_update_gets_what_it_makes():
    """The publish before may wait for just this worker, so that no other one comes."""

    async def run():
        workers, trainer = workers_of(0.1, 0.1, told=[]), Trainer()
        await publish(workers, trainer)
        trainer.idle.clear()
        workers.roster.lost(workers.attendance.ready()[1], RoleDiedError("it is gone"))
        await asyncio.sleep(20)
        assert (workers.num_ready, trainer.asked) == (1, 0)
        trainer.version = PolicyVersion(1, 2)
        trainer.idle.set()
        await asyncio.sleep(2)
        assert (workers.num_ready, trainer.asked) == (2, 1)

    run_virtually(run())


def test_weights_stay_for_a_worker_that_is_late_with_them():
    """Worker 1 takes 12 s for the load and has 10: then it is refitted with what is still there."""

    async def run():
        workers, trainer = workers_of(0.1, 12.0, told=[]), Trainer()
        await publish(workers, trainer)
        loading = asyncio.create_task(publish(workers, trainer))
        await asyncio.sleep(10.05)
        assert Published.count() == 1
        await loading
        assert workers.num_ready == 2
        assert (Published.count(), trainer.asked) == (0, 0)

    run_virtually(run())
