"""What goes wrong inside of a rollout worker whose process lives: real vLLM and actors, faults put in from outside."""

import asyncio
import logging
import time

import pytest
import ray

from rl_empathy.actors.local_ray import start_local_ray
from rl_empathy.actors.rollout_worker import RolloutWorker
from rl_empathy.config.sections import DeadlinesConfig, RestartsConfig, SamplingConfig
from rl_empathy.orchestration.fleet import RestartBudget, RolloutWorkers
from rl_empathy.orchestration.fleet.calls import Resources, start_role
from rl_empathy.types import PolicyVersion
from tests.fakes import make_prompt
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
        if method != "update_weights":
            return call(method)
        tensors = list(kwargs["update_info"]["weights"].items())
        call(method, kwargs={"update_info": {"weights": dict(tensors[: len(tensors) // 2])}})
        raise RuntimeError("the load broke off")

    worker._engine._engine.collective_rpc = half


@pytest.fixture(scope="module")
def ray_of_this_machine():
    start_local_ray(2, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.mark.long
@pytest.mark.parametrize("fault", [lose_the_core, hang_in_a_step, break_a_load_off])
def test_a_worker_whose_engine_fails_is_replaced_and_nothing_is_lost_or_mislabelled(
    ray_of_this_machine, tmp_path, fault
):
    first = make_tiny_model(tmp_path / "first", seed=0)
    second = make_tiny_model(tmp_path / "second", seed=1)
    told = []

    def start(name):
        return start_role(
            name,
            RolloutWorker,
            name,
            str(first),
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
        workers = RolloutWorkers(roles, start, DEADLINES, budget, seed=0, in_step=False, tell=told.append)
        await workers.load_model(first, PolicyVersion(1, 0))

        async def sample(index):
            handle = await workers.sample(make_prompt(index), sampling=SAMPLING, group_size=2)
            return await workers.payload(handle)

        before = [asyncio.create_task(sample(i)) for i in range(8)]
        await asyncio.wait_for(before[0], 60)
        await roles[0].actor.__ray_call__.remote(fault)
        under_way = [asyncio.create_task(sample(i)) for i in range(8, 16)]
        await workers.load_model(second, PolicyVersion(1, 1))
        groups = await asyncio.wait_for(asyncio.gather(*before, *under_way), 120)
        await workers.roster.until(lambda: workers.num_ready == 2, 2, "serve with both again")
        late = await asyncio.gather(*(sample(i) for i in range(16, 24)))
        return budget, groups, late

    budget, groups, late = asyncio.run(run())
    assert budget.total == 1
    assert any("rollout_worker_0" in text and "Starting rollout_worker_0 anew" in text for text in told)
    assert [group.prompt.occurrence.index for group in groups] == list(range(16))
    completions = [c for group in [*groups, *late] for c in group.completions]
    assert all(c.version_spans[-1].end == len(c.token_ids) for c in completions)
    assert {span.version for c in completions for span in c.version_spans} == {
        PolicyVersion(1, 0),
        PolicyVersion(1, 1),
    }
    assert {span.version for group in late for c in group.completions for span in c.version_spans} == {
        PolicyVersion(1, 1)
    }
