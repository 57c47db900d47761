"""Every call to an actor or a task ends: with an answer, with the error that was raised, or at its deadline."""

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from rl_empathy.actors.local_ray import start_local_ray
from rl_empathy.config.sections import DeadlinesConfig
from rl_empathy.errors import ModelError, RoleDiedError, RoleTimeoutError, VoidedError
from rl_empathy.observability.role_log import divert_output
from rl_empathy.orchestration import fleet
from rl_empathy.orchestration.fleet.calls import Resources, run_task, start_role
from rl_empathy.orchestration.fleet.references import hear_errors
from rl_empathy.types import Pulse

ONE = Resources(num_cpus=1, num_gpus=0)
DEADLINES = DeadlinesConfig(start_s=60, health_s=3)


@pytest.fixture(scope="module", autouse=True)
def _local_ray() -> Iterator[None]:
    start_local_ray(2, logging_level=logging.ERROR)
    yield
    ray.shutdown()


class Broken:
    """Fails in its constructor, as a role does whose model is not there."""

    def __init__(self, model: str, log: str) -> None:
        raise ModelError(f"no model at {model}")

    def ready(self) -> Pulse:
        return Pulse("a-node")


class Steady:
    """Comes up, and then does as it is told."""

    def __init__(self, log: str) -> None:
        pass

    def ready(self) -> Pulse:
        return Pulse("a-node")

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os._exit(1)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def give_up(self) -> None:
        raise VoidedError("it was given up")


class Logging(Steady):
    """With a log, as every role has."""

    def __init__(self, log: str) -> None:
        divert_output(log)


def test_an_error_of_a_constructor_keeps_its_class(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^no model at nowhere$"):
        asyncio.run(
            start_role("trainer", Broken, "nowhere", resources=ONE, logs=tmp_path, deadlines=DEADLINES)
        )


def test_a_role_that_is_late_writes_into_its_log_where_it_is(tmp_path: Path) -> None:
    async def run() -> None:
        role = await start_role("sleeper", Logging, resources=ONE, logs=tmp_path, deadlines=DEADLINES)
        with pytest.raises(RoleTimeoutError, match=r"with the place of every thread: .*sleeper\.log"):
            await role.answer(role.actor.sleep.remote(60), seconds=1, doing="sleep")
        role.kill()
        assert "in sleep" in role.log.read_text()

    asyncio.run(run())


def test_a_role_that_finds_no_place_says_what_it_asks_for_and_what_there_is(tmp_path: Path) -> None:
    hungry = Resources(num_cpus=64, num_gpus=0)
    told = r"scorer did not start within 2 s.*asks for 64 CPUs and 0 GPUs.*free in the cluster are 2 CPUs and 0 GPUs"
    with pytest.raises(RoleTimeoutError, match=told):
        asyncio.run(
            start_role(
                "scorer", Steady, resources=hungry, logs=tmp_path, deadlines=DeadlinesConfig(start_s=2)
            )
        )


def test_a_dead_actor_and_a_late_one_are_told_with_their_name_and_log(tmp_path: Path) -> None:
    async def call_both() -> None:
        role = await start_role("scorer", Steady, resources=ONE, logs=tmp_path, deadlines=DEADLINES)
        with pytest.raises(
            RoleTimeoutError, match=r"scorer on node a-node did not rest within 0\.1 s.*scorer\.log"
        ):
            await role.answer(role.actor.sleep.remote(0.5), seconds=0.1, doing="rest")
        with pytest.raises(
            RoleDiedError, match=r"(?s)scorer on node a-node died while it was to fall.*scorer\.log"
        ):
            await role.answer(role.actor.die.remote(), seconds=60, doing="fall")

    asyncio.run(call_both())


def test_a_stopped_actor_is_taken_for_dead_long_before_the_deadline_and_a_busy_one_is_not(
    tmp_path: Path,
) -> None:
    async def call_both() -> None:
        role = await start_role("scorer", Steady, resources=ONE, logs=tmp_path, deadlines=DEADLINES)
        await role.answer(role.actor.sleep.remote(5), seconds=60, doing="rest")  # longer than health_s
        os.kill(await role.answer(role.actor.pid.remote(), seconds=60, doing="tell"), signal.SIGSTOP)
        with pytest.raises(RoleDiedError, match=r"scorer .*did not answer within 3 s that it is alive"):
            await role.answer(role.actor.sleep.remote(0), seconds=600, doing="rest")
        role.kill()

    asyncio.run(asyncio.wait_for(call_both(), 60))


def test_a_task_raises_what_it_raised() -> None:
    def fail() -> None:
        raise ModelError("no tokenizer")

    with pytest.raises(ModelError, match="no tokenizer"):
        asyncio.run(run_task(fail, resources=ONE, seconds=60, doing="convert"))


@pytest.mark.parametrize("cancelled_at", ["once", "work", "never"])
def test_the_error_of_a_call_that_nobody_waits_for_any_more_is_not_printed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cancelled_at: str
) -> None:
    async def run() -> None:
        role = await start_role("worker", Steady, resources=ONE, logs=tmp_path, deadlines=DEADLINES)

        async def ask() -> None:
            header, payload = role.actor.give_up.options(num_returns=2).remote()
            hear_errors(header, payload)
            await role.answer(header, seconds=30, doing="give up")

        async def ask_for_one() -> None:
            await role.answer(role.actor.give_up.remote(), seconds=30, doing="give up")

        before = role.actor.sleep.remote(0.5)  # the role takes one call after the other
        calls = [asyncio.create_task(ask()), asyncio.create_task(ask_for_one())]
        if cancelled_at != "never":
            await asyncio.sleep(0 if cancelled_at == "once" else 0.1)
            for call in calls:
                call.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        wanted = VoidedError if cancelled_at == "never" else asyncio.CancelledError
        assert [type(error) for error in ended] == [wanted, wanted]
        await before
        await role.answer(role.actor.pid.remote(), seconds=30, doing="say its pid")  # so they have failed
        role.kill()

    logging.getLogger("ray._private.worker").addHandler(caplog.handler)
    try:
        asyncio.run(run())
        gc.collect()
    finally:
        logging.getLogger("ray._private.worker").removeHandler(caplog.handler)
    assert "Unhandled error" not in caplog.text


def test_every_call_that_returns_several_objects_has_its_errors_heard() -> None:
    for path in Path(fleet.__file__).parent.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        definition = source.count("def hear_errors(")
        assert source.count("num_returns=2") <= source.count("hear_errors(") - definition, path
