"""Calls to a role without a state of its own, on a virtual clock."""

import asyncio
import gc

from rl_empathy.config.sections import RestartsConfig
from rl_empathy.errors import ModelError, RoleDiedError, ScorerLostError
from rl_empathy.orchestration.fleet.restarts import RestartableRole, RestartBudget
from tests.fakes import endless
from tests.virtual_clock import run_virtually


def restartable(start, role=None, *, each_role=1) -> RestartableRole:
    budget = RestartBudget(RestartsConfig(each_role=each_role), lambda text: None)
    return RestartableRole(role or endless("reward_model"), start, budget, retries=2)


def test_a_few_calls_wait_at_a_roles_door_and_the_others_before_they_are_made():
    """10 calls of 10 s, four at a time: three rounds."""
    under_way = []

    async def call(role) -> int:
        under_way.append(role)
        most = len(under_way)
        await asyncio.sleep(10)
        under_way.pop()
        return most

    async def run():
        role = restartable(None)
        most = await asyncio.gather(*(role.call(call) for _ in range(10)))
        assert max(most) == 4
        assert asyncio.get_running_loop().time() == 30

    run_virtually(run())


def test_a_call_that_is_given_up_leaves_its_place():
    async def run():
        role = restartable(None)
        given_up = [asyncio.create_task(role.call(lambda _: asyncio.sleep(1000))) for _ in range(4)]
        await asyncio.sleep(1)
        for call in given_up:
            call.cancel()
        assert await role.call(lambda _: asyncio.sleep(1, "answered")) == "answered"
        assert asyncio.get_running_loop().time() == 2

    run_virtually(run())


class OneByOne:
    """An actor's door: it takes one call after the other, and works on when nobody waits any more."""

    def __init__(self):
        self._last = None

    def work(self, seconds):
        """The answer to a call that comes now and takes so long."""
        before, answer = self._last, asyncio.get_running_loop().create_future()
        self._last = asyncio.create_task(self._do(before, seconds, answer))
        return answer

    async def _do(self, before, seconds, answer):
        if before is not None:
            await before
        await asyncio.sleep(seconds)
        if not answer.cancelled():
            answer.set_result(seconds)


def asked(door, seconds, *, deadline):
    return lambda role: role.answer(door.work(seconds), seconds=deadline, doing="score")


def test_a_slow_and_healthy_role_is_not_restarted_for_the_time_that_its_calls_waited_at_its_door():
    """12 calls of 8 s with a deadline of 10 s: each is late by three calls before it."""

    async def run():
        role, door = restartable(None), OneByOne()
        assert await asyncio.gather(*(role.call(asked(door, 8, deadline=10)) for _ in range(12))) == [8] * 12
        assert asyncio.get_running_loop().time() == 96

    run_virtually(run())


def test_a_call_that_was_given_up_and_is_still_worked_on_costs_the_next_one_no_time():
    async def run():
        role, door = restartable(None), OneByOne()
        given_up = asyncio.create_task(role.call(asked(door, 8, deadline=10)))
        await asyncio.sleep(1)
        given_up.cancel()
        assert await role.call(asked(door, 8, deadline=10)) == 8
        assert asyncio.get_running_loop().time() == 16

    run_virtually(run())


def test_a_call_that_never_ends_costs_those_behind_it_no_more_than_its_own_deadline():
    async def run():
        role = restartable(None, each_role=0)
        door = OneByOne()
        calls = [role.call(asked(door, seconds, deadline=10)) for seconds in (1, 1000, 1, 1)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert ended[0] == 1
        assert all("within 10 s" in str(error) for error in ended[1:])
        assert asyncio.get_running_loop().time() == 11

    run_virtually(run())


def test_calls_that_a_role_took_with_it_are_made_again_on_its_one_successor():
    lost = endless("the first")

    async def start():
        await asyncio.sleep(5)
        return endless("the second")

    async def call(role) -> str:
        await asyncio.sleep(1)
        if role is lost:
            raise RoleDiedError("it is gone")
        return role.name

    async def run():
        role = restartable(start, lost)
        names = await asyncio.gather(*(role.call(call) for _ in range(8)))
        assert names == ["the second"] * 8
        assert lost.is_ended

    run_virtually(run())


def test_calls_that_are_given_up_end_no_restart_and_cost_no_other():
    """As when the trainer goes with the same node: it takes all calls with it, which are made again by and by."""
    lost, starts = endless("the first"), []

    async def start():
        starts.append("a start")
        await asyncio.sleep(5)
        return endless("the second")

    async def call(role) -> str:
        if role is lost:
            raise RoleDiedError("it is gone")
        return role.name

    async def run():
        role = restartable(start, lost, each_role=1)
        given_up = [asyncio.create_task(role.call(call)) for _ in range(4)]
        await asyncio.sleep(1)
        for task in given_up:
            task.cancel()
        assert await role.call(call) == "the second"
        assert asyncio.get_running_loop().time() == 5
        assert len(starts) == 1

    run_virtually(run())


def test_a_restart_that_fails_when_its_calls_were_given_up_is_no_error_that_nobody_heard():
    unheard = []

    async def start():
        await asyncio.sleep(5)
        raise ValueError("it cannot be started")

    async def lost(role):
        raise RoleDiedError("it is gone")

    async def run():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
        call = asyncio.create_task(restartable(start).call(lost))
        await asyncio.sleep(1)
        call.cancel()
        await asyncio.sleep(10)
        del call
        gc.collect()

    run_virtually(run())
    gc.collect()
    assert unheard == []


def test_the_error_of_a_call_that_was_given_up_is_no_error_that_nobody_heard():
    """As when the role dies of what it still works on."""
    unheard = []

    async def run():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
        role, answer = restartable(None), asyncio.get_running_loop().create_future()
        call = asyncio.create_task(role.call(lambda one: one.answer(answer, seconds=100, doing="score")))
        await asyncio.sleep(1)
        call.cancel()
        await asyncio.sleep(1)
        answer.set_exception(RoleDiedError("it is gone"))
        await asyncio.sleep(1)

    run_virtually(run())
    gc.collect()
    assert unheard == []


def test_a_role_that_is_ended_is_not_started_anew_any_more():
    lost, started = endless("the first"), []

    async def start():
        await asyncio.sleep(5)
        started.append("the second")
        return endless("the second")

    async def call(role) -> None:
        raise RoleDiedError("it is gone")

    async def run():
        role = restartable(start, lost)
        given_up = asyncio.create_task(role.call(call))
        await asyncio.sleep(1)
        given_up.cancel()
        role.kill()
        await asyncio.sleep(10)
        assert not started

    run_virtually(run())


def test_a_role_whose_model_cannot_be_loaded_at_once_is_started_again():
    lost, starts = endless("the first"), []

    async def start():
        starts.append("a try")
        if len(starts) == 1:
            raise ModelError("no memory")
        return endless("the second")

    async def call(role) -> str:
        if role is lost:
            raise RoleDiedError("it is gone")
        return role.name

    async def run():
        role = restartable(start, lost, each_role=2)
        assert not role.has_answered
        assert await role.call(call) == "the second"
        assert role.has_answered

    run_virtually(run())


def test_a_call_that_its_role_is_lost_of_is_given_up_and_those_beside_it_are_not():
    """Three tries, each of which takes the role along; the others go with it once, and are then made alone."""
    poisoned, answered = [], []

    async def start():
        await asyncio.sleep(5)
        return endless("a successor")

    def call(number):
        async def make(role) -> None:
            if number == 1:
                poisoned.append(role)
                await asyncio.sleep(1)
                role.kill()
            for _ in range(20):
                if role.is_ended:
                    raise RoleDiedError("it is gone")
                await asyncio.sleep(0.1)
            answered.append(number)

        return make

    async def run():
        role = restartable(start, each_role=3)
        results = await asyncio.gather(*(role.call(call(n)) for n in range(8)), return_exceptions=True)
        assert [type(result) for result in results] == [type(None), ScorerLostError, *[type(None)] * 6]
        assert "it is gone. So it ended 3 times" in str(results[1])
        assert len(poisoned) == 3
        assert sorted(answered) == [0, 2, 3, 4, 5, 6, 7]

    run_virtually(run())
