"""Calls to a role without a state of its own, on a virtual clock."""

import asyncio

from rl_empathy.config.sections import RestartsConfig
from rl_empathy.errors import RoleDiedError
from rl_empathy.orchestration.fleet.restarts import RestartableRole, RestartBudget
from tests.fakes import endless
from tests.virtual_clock import run_virtually


def restartable(start) -> RestartableRole:
    return RestartableRole(
        endless("reward_model"), start, RestartBudget(RestartsConfig(each_role=1), lambda text: None)
    )


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
        role = RestartableRole(lost, start, RestartBudget(RestartsConfig(each_role=1), lambda text: None))
        names = await asyncio.gather(*(role.call(call) for _ in range(8)))
        assert names == ["the second"] * 8
        assert lost.is_ended

    run_virtually(run())
