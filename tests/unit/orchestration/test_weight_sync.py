"""Publishing beside the trainer's work: a node holds one copy of the weights at a time."""

import asyncio
from types import SimpleNamespace

from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.orchestration.weight_sync import Publisher
from rl_empathy.types import PolicyVersion
from tests.virtual_clock import run_virtually


class SlowWorkers:
    """Take 5 s to load a version."""

    num_ready = 1

    def __init__(self) -> None:
        self.loaded: list[PolicyVersion] = []
        self.is_loading = False

    async def load(self, offer, anew=None):
        self.is_loading = True
        await asyncio.sleep(5)
        self.is_loading = False
        self.loaded.append(offer.version)
        return {"a worker": {"pause_s": 0.0, "busy_s": 0.0}}


class Trainer:
    """Makes a copy of its weights when it is asked; keeps whether the one before was still wanted."""

    def __init__(self, workers: SlowWorkers) -> None:
        self.version = PolicyVersion(1, 0)
        self.before_was_wanted: list[bool] = []
        self._workers = workers

    async def weights(self):
        self.before_was_wanted.append(self._workers.is_loading)
        return object()


def test_the_next_weights_are_copied_when_the_workers_have_those_before():
    workers = SlowWorkers()
    trainer = Trainer(workers)

    async def run():
        async with asyncio.TaskGroup() as tasks:
            publisher = Publisher(trainer, workers, tasks, StopSignal())
            for number in range(3):
                trainer.version = PolicyVersion(1, number)
                await publisher.publish()
                await asyncio.sleep(1)  # an update that is faster than the load
            await publisher.ended()

    run_virtually(run())
    assert trainer.before_was_wanted == [False] * 3
    assert workers.loaded == [PolicyVersion(1, number) for number in range(3)]


class CountingChannel:
    """A way that nobody here wrote: it offers the version alone."""

    def __init__(self) -> None:
        self.offered: list[PolicyVersion] = []

    async def offer(self, trainer):
        self.offered.append(trainer.version)
        return SimpleNamespace(version=trainer.version)


def test_weights_take_the_way_that_is_given():
    workers, channel = SlowWorkers(), CountingChannel()
    trainer = Trainer(workers)

    async def run():
        async with asyncio.TaskGroup() as tasks:
            publisher = Publisher(trainer, workers, tasks, StopSignal(), channel=channel)
            await publisher.publish()
            await publisher.ended()

    run_virtually(run())
    assert channel.offered == workers.loaded == [PolicyVersion(1, 0)]
    assert trainer.before_was_wanted == [], "the object store was not asked"
