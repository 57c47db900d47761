"""Rollout workers that leave with notice, and replacements that do not come up at once; on a virtual clock."""

import asyncio

import pytest

from rl_empathy.config.sections import DeadlinesConfig, RestartsConfig
from rl_empathy.errors import RoleDiedError, RoleTimeoutError, WeightSyncError
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.restarts import RestartBudget
from rl_empathy.orchestration.fleet.roster import Roster
from tests.fakes import endless
from tests.virtual_clock import run_virtually


class FailingStarts:
    """So many starts fail; the next ones take 10 s."""

    def __init__(self, failures: int) -> None:
        self._failures = failures
        self.names: list[str] = []
        self.roles: list[Role] = []

    async def __call__(self, name: str) -> Role:
        self.names.append(name)
        await asyncio.sleep(10)
        if len(self.names) <= self._failures:
            raise RoleTimeoutError(f"{name} did not start")
        self.roles.append(endless(name))
        return self.roles[-1]


def roster_of(count, start, *, each_role=10, told, refusing="") -> Roster:
    async def join(worker) -> None:
        worker.move("load")
        if worker.role.name == refusing:
            raise WeightSyncError("the weights do not fit")
        worker.move("loaded")
        roster.changed()

    roster = Roster(
        [endless(f"rollout_worker_{i}") for i in range(count)],
        start,
        join,
        DeadlinesConfig(workers_s=100, sample_s=1000),
        RestartBudget(RestartsConfig(each_role=each_role), told.append),
        fixed=False,
        tell=told.append,
    )
    for worker in roster.workers:
        worker.move("load")
        worker.move("loaded")
    return roster


def test_a_replacement_that_the_run_needs_is_started_until_it_is_up():
    async def run():
        told = []
        start = FailingStarts(2)
        roster = roster_of(1, start, told=told)
        [leaving] = roster.workers
        leaving.role.asked_to_go = True
        roster.replace_leaving(())
        await roster.until_enough("go on")
        assert start.names == ["rollout_worker_1"] * 3
        assert leaving.role.is_ended
        assert [str(worker) for worker in roster.workers] == ["rollout_worker_1 (ready)"]
        assert told[1:] == [
            "rollout_worker_1 did not start. Starting rollout_worker_1 anew (restart 1)",
            "rollout_worker_1 did not start. Starting rollout_worker_1 anew (restart 2)",
            "rollout_worker_1 is up again after 20.0 s",
        ]

    run_virtually(run())


def test_when_no_replacement_comes_up_the_run_ends_with_what_kept_it():
    async def run():
        roster = roster_of(1, FailingStarts(2), each_role=1, told=[])
        roster.workers[0].role.asked_to_go = True
        roster.replace_leaving(())
        with pytest.raises(
            RoleDiedError, match=r"rollout_worker_1 did not start\. .*each_role \(1\) is spent"
        ):
            await roster.until_enough("go on")

    run_virtually(run())


def test_a_wait_without_any_worker_ends_with_its_deadline():
    async def run():
        roster = roster_of(1, FailingStarts(100), each_role=100, told=[])
        roster.workers[0].role.asked_to_go = True
        roster.replace_leaving(())
        with pytest.raises(RoleTimeoutError, match=r"waited 100 s .*: none is left\. Their logs: logs"):
            await roster.until_enough("go on")

    run_virtually(run())


def test_a_worker_beyond_what_the_run_needs_is_told_of_and_left():
    async def run():
        told = []
        start = FailingStarts(1)
        roster = roster_of(1, start, told=told)
        roster.scale_to(2, "asked for")
        await asyncio.sleep(60)
        assert start.names == ["rollout_worker_1"]
        assert told[1:] == ["rollout_worker_1 did not start", "Going on with 1 rollout workers"]

    run_virtually(run())


def test_a_worker_beyond_what_the_run_needs_that_cannot_load_is_told_of_and_left():
    async def run():
        told = []
        start = FailingStarts(0)
        roster = roster_of(1, start, told=told, refusing="rollout_worker_1")
        roster.scale_to(2, "asked for")
        await asyncio.sleep(60)
        assert told[1:] == ["the weights do not fit. Going on with 1 rollout workers"]
        assert start.roles[0].is_ended
        assert [str(worker) for worker in roster.workers] == ["rollout_worker_0 (ready)"]
        roster.scale_to(2, "asked for")
        await asyncio.sleep(60)
        assert len(told) == 4, "another one is tried when it is wanted again"

    run_virtually(run())


def test_a_worker_whose_restarts_are_spent_is_told_of_though_the_run_goes_on():
    async def run():
        told = []
        roster = roster_of(2, FailingStarts(100), each_role=1, told=told)
        roster.scale_to(1, "asked for")
        roster.lost(roster.ready()[0], RoleDiedError("it is gone"))
        await asyncio.sleep(60)
        assert "cluster.restarts.each_role (1) is spent" in told[-1]

    run_virtually(run())


def test_scaling_down_leaves_those_that_serve_as_long_as_others_only_come():
    async def run():
        roster = roster_of(2, FailingStarts(0), told=[])
        roster.scale_to(4, "asked for")
        roster.scale_to(2, "asked for")
        assert len(roster.ready()) == 2
        await asyncio.sleep(60)
        roster.scale_to(2, "asked for")
        await asyncio.sleep(1)
        assert len(roster.workers) == len(roster.ready()) == 2

    run_virtually(run())


def test_a_worker_that_does_not_end_its_groups_is_ended_at_the_deadline_of_a_group():
    async def run():
        told = []
        roster = roster_of(2, FailingStarts(0), told=told)
        [leaving, _] = roster.workers
        leaving.groups = 1
        leaving.role.asked_to_go = True
        roster.replace_leaving(())
        await asyncio.sleep(999)
        assert not leaving.role.is_ended
        await asyncio.sleep(2)
        assert leaving.role.is_ended
        assert told[-1].startswith(
            "rollout_worker_0 did not end its groups within 1000 s (cluster.deadlines.sample_s)"
        )

    run_virtually(run())
