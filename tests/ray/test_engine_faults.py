"""What goes wrong inside of a rollout worker whose process lives: real vLLM and actors, faults put in from outside."""

import asyncio
import logging
import time

import pytest
import ray

from rl_empathy.actors.local_ray import start_local_ray
from rl_empathy.actors.rollout_worker import RolloutWorker
from rl_empathy.config.sections import DeadlinesConfig, GRPOConfig, RestartsConfig, SamplingConfig
from rl_empathy.data.prompts import PromptStream
from rl_empathy.engines.weight_arrays import PublishedWeights
from rl_empathy.observability.ledger import Ledger
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.fleet import RestartBudget, RolloutWorkers
from rl_empathy.orchestration.fleet.calls import Resources, start_role
from rl_empathy.orchestration.grpo import run_grpo
from rl_empathy.orchestration.stop import StopSignal
from tests.fakes import RecordingTrainer, make_fleet, make_row
from tests.tiny_models import make_tiny_model

SAMPLING = SamplingConfig(max_completion_tokens=48)
DEADLINES = DeadlinesConfig(health_s=10)


def lose_the_core(worker):
    def step():
        raise RuntimeError("the engine's core is gone")

    worker._engine._engine.step = step


def hang_in_a_step(worker):
    worker._engine._engine.step = lambda: time.sleep(10_000)


def break_a_load_off(worker):
    """Half of the tensors are loaded."""
    call = worker._engine._engine.collective_rpc

    def half(method, kwargs=None):
        if kwargs:
            tensors = list(kwargs["update_info"]["weights"].items())
            kwargs = {"update_info": {"weights": dict(tensors[: len(tensors) // 2])}}
        return call(method, kwargs=kwargs)

    worker._engine._engine.collective_rpc = half


@pytest.fixture(scope="module")
def ray_of_this_machine():
    start_local_ray(2, logging_level=logging.ERROR)
    yield
    ray.shutdown()


class PublishingTrainer(RecordingTrainer):
    """Publishes two models by turns, keeps what it trains, and has a fault put into a worker in its third step."""

    def __init__(self, folders, workers, put_in):
        super().__init__()
        self._folders, self._workers, self._put_in = folders, workers, put_in
        self.groups = []

    async def weights(self):
        folder = self._folders[self.version.number % 2]
        return ray.put(PublishedWeights.from_folder(folder, self.version))

    async def update(self, groups):
        self.groups += [(self.version, await self._workers.payload(group)) for group in groups]
        if self.version.number == 2:
            await self._put_in()
        return await super().update(groups)


@pytest.mark.long
@pytest.mark.parametrize("fault", [lose_the_core, hang_in_a_step, break_a_load_off])
def test_a_worker_whose_engine_fails_is_replaced_and_nothing_is_lost_or_mislabelled(
    ray_of_this_machine, tmp_path, fault
):
    folders = [make_tiny_model(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    config = GRPOConfig(
        num_steps=12,
        groups_per_step=4,
        group_size=2,
        max_staleness=1,
        sampling=SAMPLING,
        checkpoint_every=100,
    )
    ledger, told = Ledger(tmp_path / "ledger.jsonl"), []

    def start(name):
        return start_role(
            name,
            RolloutWorker,
            name,
            str(folders[0]),
            resources=Resources(num_cpus=1, num_gpus=0, max_concurrency=100),
            logs=tmp_path,
            deadlines=DEADLINES,
            dtype="float32",
            max_model_tokens=128,
            max_running_sequences=16,
            kv_cache_mib=64,
            seed=0,
            synchronous=False,
            deterministic=False,
        )

    async def run():
        budget = RestartBudget(RestartsConfig(), told.append)
        roles = await asyncio.gather(*(start(f"rollout_worker_{i}") for i in range(2)))
        workers = RolloutWorkers(
            roles,
            start,
            DEADLINES,
            budget,
            max_running_sequences=lambda: 16,
            seed=0,
            in_step=False,
            tell=told.append,
        )
        trainer = PublishingTrainer(folders, workers, lambda: roles[0].actor.__ray_call__.remote(fault))
        prompts = PromptStream([(make_row(i), [1, 2, 3]) for i in range(100)], seed=0)
        log = MetricsLog(tmp_path / "metrics.jsonl")
        fleet = make_fleet(workers=workers, trainer=trainer)
        await asyncio.wait_for(run_grpo(config, fleet, prompts, ledger, log, stop=StopSignal()), 200)
        await workers.attendance.until(lambda: workers.num_ready == 2, 2, "serve with both again")
        return budget, trainer

    budget, trainer = asyncio.run(run())
    assert budget.total == 1
    assert any("rollout_worker_0" in text and "Starting rollout_worker_0 anew" in text for text in told)
    assert ledger.metrics()["ledger/trained"] == len(trainer.groups) == 12 * 4
    assert ledger.metrics()["ledger/duplicates"] == 0
    if fault is break_a_load_off:
        assert any("the published weights lack" in text for text in told)
    else:  # and not between two groups, as a load may come
        assert ledger.metrics()["ledger/retried"] > 0, "the worker had nothing under way"
    assert max(trainer.staleness) <= 1
    for version, group in trainer.groups:
        for completion in group.completions:
            assert completion.version_spans[-1].end == len(completion.token_ids)
            assert {span.version.number for span in completion.version_spans} <= {
                version.number - 1,
                version.number,
            }
