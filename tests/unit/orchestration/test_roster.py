"""Rollout workers that leave with notice, and replacements that do not come up at once; on a virtual clock."""

import asyncio
from dataclasses import replace

import pytest

from rl_empathy.config.sections import DeadlinesConfig, RestartsConfig
from rl_empathy.errors import ModelError, RoleDiedError, RoleTimeoutError, WeightSyncError
from rl_empathy.orchestration.fleet import RolloutWorkers
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.restarts import RestartBudget
from rl_empathy.orchestration.fleet.workers.attendance import Attendance
from rl_empathy.orchestration.fleet.workers.roster import Roster
from rl_empathy.orchestration.weight_channels.object_store import StoredWeights
from rl_empathy.types import PolicyVersion
from tests.fakes import endless
from tests.virtual_clock import run_virtually


class FailingStarts:
    """So many starts fail; the next ones take 10 s."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.names: list[str] = []
        self.roles: list[Role] = []

    async def __call__(self, name: str) -> Role:
        self.names.append(name)
        await asyncio.sleep(10)
        if len(self.names) <= self.failures:
            raise RoleTimeoutError(f"{name} did not start")
        self.roles.append(endless(name))
        return self.roles[-1]


def roster_of(count, start, *, each_role=10, told, refusing="") -> Roster:
    async def join(worker) -> None:
        worker.move("load")
        if worker.role.name == refusing:
            raise WeightSyncError("the weights do not fit")
        worker.move("loaded")
        attendance.changed()

    deadlines = DeadlinesConfig(workers_s=100, sample_s=1000)
    attendance = Attendance([endless(f"rollout_worker_{i}") for i in range(count)], deadlines, told.append)
    roster = Roster(
        attendance,
        start,
        join,
        deadlines,
        RestartBudget(RestartsConfig(each_role=each_role), told.append),
        fixed=False,
        tell=told.append,
    )
    for worker in attendance.workers:
        worker.move("load")
        worker.move("loaded")
    return roster


def test_a_replacement_that_the_run_needs_is_started_until_it_is_up():
    async def run():
        told = []
        start = FailingStarts(2)
        roster = roster_of(1, start, told=told)
        [leaving] = roster.attendance.workers
        leaving.role.asked_to_go = True
        roster.replace_leaving(())
        await roster.attendance.until_enough("go on")
        assert start.names == ["rollout_worker_1"] * 3
        assert leaving.role.is_ended
        assert [str(worker) for worker in roster.attendance.workers] == ["rollout_worker_1 (ready)"]
        assert told[1:] == [
            "rollout_worker_1 did not start. Starting rollout_worker_1 anew (restart 1)",
            "rollout_worker_1 did not start. Starting rollout_worker_1 anew (restart 2)",
            "rollout_worker_1 is up again after 20.0 s",
        ]

    run_virtually(run())


def test_when_no_replacement_comes_up_the_run_ends_with_what_kept_it():
    async def run():
        roster = roster_of(1, FailingStarts(2), each_role=1, told=[])
        roster.attendance.workers[0].role.asked_to_go = True
        roster.replace_leaving(())
        with pytest.raises(
            RoleDiedError, match=r"rollout_worker_1 did not start\. .*each_role \(1\) is spent"
        ):
            await roster.attendance.until_enough("go on")

    run_virtually(run())


def test_a_wait_without_any_worker_ends_with_its_deadline():
    async def run():
        roster = roster_of(1, FailingStarts(100), each_role=100, told=[])
        roster.attendance.workers[0].role.asked_to_go = True
        roster.replace_leaving(())
        with pytest.raises(RoleTimeoutError, match=r"waited 100 s .*: none is left\. Their logs: logs"):
            await roster.attendance.until_enough("go on")

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
        assert told[1:] == ["the weights do not fit", "Going on with 1 rollout workers"]
        assert start.roles[0].is_ended
        assert [str(worker) for worker in roster.attendance.workers] == ["rollout_worker_0 (ready)"]
        roster.scale_to(2, "asked for")
        await asyncio.sleep(60)
        assert len(told) == 6, "another one is tried when it is wanted again"

    run_virtually(run())


class LoadingActor:
    """Takes a while to load weights, or refuses them."""

    def __init__(self, load_s: float, *, refuses: bool = False) -> None:
        self.load_weights = self
        self._load_s, self._refuses = load_s, refuses

    async def remote(self, weights, whole, number):
        await asyncio.sleep(self._load_s)
        if self._refuses:
            raise WeightSyncError("the weights do not fit")
        return weights, {"pause_s": 0.0, "busy_s": 0.0}


def test_a_new_worker_that_cannot_load_ends_nothing_though_a_publish_waits_before_its_first_load():
    """Worker 1 loads from second 1 to 6, a publish waits from 1.5 on, and worker 2 comes at 2."""

    async def run():
        told = []
        coming = {
            "rollout_worker_1": (1.0, LoadingActor(5.0)),
            "rollout_worker_2": (2.0, LoadingActor(0.1, refuses=True)),
        }

        async def start(name):
            start_s, actor = coming[name]
            await asyncio.sleep(start_s)
            return replace(endless(name), actor=actor)

        first = replace(endless("rollout_worker_0"), actor=LoadingActor(0.1))
        budget = RestartBudget(RestartsConfig(), told.append)
        workers = RolloutWorkers(
            [first],
            start,
            DeadlinesConfig(),
            budget,
            max_running_sequences=lambda: 8,
            seed=0,
            in_step=False,
            tell=told.append,
        )
        await workers.load(StoredWeights(PolicyVersion(1, 0), PolicyVersion(1, 0)))
        workers.roster.scale_to(3, "asked for")
        await asyncio.sleep(1.5)
        reports = await workers.load(StoredWeights(PolicyVersion(1, 1), PolicyVersion(1, 1)))
        assert set(reports) == {"rollout_worker_0.1", "rollout_worker_1.1"}
        await asyncio.sleep(10)
        assert "Going on with 2 rollout workers" in told
        assert workers.num_ready == 2

    run_virtually(run())


def test_a_lost_worker_beyond_what_the_run_needs_costs_one_restart_and_leaves_its_place_to_others():
    async def run():
        told = []
        start = FailingStarts(0)
        roster = roster_of(1, start, told=told)
        roster.scale_to(2, "asked for")
        await asyncio.sleep(60)
        told.clear()
        start.failures = 3  # of which the one before is one
        roster.lost(roster.attendance.ready()[1], RoleDiedError("it is gone"))
        assert len(roster.attendance) == 2, "another one is on its way"
        await asyncio.sleep(60)
        assert told == [
            "it is gone. Starting rollout_worker_1 anew (restart 1)",
            "rollout_worker_1 did not start",
            "Going on with 1 rollout workers",
        ]
        for wanted in (2, 2):  # the first of these still finds no room
            roster.scale_to(wanted, "asked for")
            await asyncio.sleep(60)
        assert len(roster.attendance.ready()) == 2
        assert sum("restart" in text for text in told) == 1

    run_virtually(run())


def test_a_worker_whose_restarts_are_spent_is_told_of_though_the_run_goes_on():
    async def run():
        told = []
        roster = roster_of(2, FailingStarts(100), each_role=1, told=told)
        roster.scale_to(1, "asked for")
        roster.lost(roster.attendance.ready()[0], RoleDiedError("it is gone"))
        await asyncio.sleep(60)
        assert "cluster.restarts.each_role (1) is spent" in told[-1]

    run_virtually(run())


def test_a_worker_whose_restarts_are_spent_is_not_counted_when_another_one_is_needed():
    """The run needs two of three; worker 0 is gone for good, and the first start in the place of worker 2 fails."""

    async def run():
        told = []
        start = FailingStarts(0)
        roster = roster_of(2, start, each_role=1, told=told)
        roster.scale_to(3, "asked for")
        await asyncio.sleep(60)
        for name, failures in (("rollout_worker_0", 0), ("rollout_worker_0", 0), ("rollout_worker_2", 3)):
            start.failures = failures  # of all starts, the first two of which were made
            [worker] = [worker for worker in roster.attendance.ready() if worker.role.name == name]
            roster.lost(worker, RoleDiedError(f"{name} is gone"))
            await asyncio.sleep(5)
            assert len(roster.attendance.ready()) == 2 - (name == "rollout_worker_2")
            await asyncio.sleep(60)
        assert "Going on with" not in " ".join(told)
        assert "cluster.restarts.each_role (1) is spent" in told[-1]
        with pytest.raises(RoleDiedError, match="rollout_worker_2"):
            await roster.attendance.until_enough("publish")

    run_virtually(run())


def test_a_model_that_cannot_be_loaded_again_at_once_is_tried_again():
    """It could be loaded at the run's start: the machine may be short of memory, which passes."""

    async def run():
        told = []
        starts = []

        async def start(name):
            starts.append(name)
            if len(starts) < 3:
                raise ModelError("vLLM cannot load the model: no memory")
            return endless(name)

        roster = roster_of(2, start, told=told)
        roster.lost(roster.attendance.ready()[0], RoleDiedError("it is gone"))
        await roster.attendance.until_enough("publish")
        assert starts == ["rollout_worker_0"] * 3
        assert told[1] == "vLLM cannot load the model: no memory. Starting rollout_worker_0 anew (restart 2)"

    run_virtually(run())


class Room:
    """A cluster with so many free places, which whoever waited longest gets; nobody waits for more than 50 s."""

    def __init__(self, places: int) -> None:
        self._places = asyncio.Semaphore(places)

    def give(self) -> None:
        """A node comes."""
        self._places.release()

    async def __call__(self, name: str) -> Role:
        try:
            async with asyncio.timeout(50):
                await self._places.acquire()
        except TimeoutError:
            raise RoleTimeoutError(f"{name} found no place") from None
        role = endless(name)
        end = role.kill

        def kill() -> None:
            if not role.is_ended:
                self._places.release()
            end()

        role.kill = kill
        return role


def test_another_role_gets_its_place_before_a_worker_that_the_run_does_not_need():
    """The trainer that is lost leaves the one free place of a full cluster, for which a worker has waited."""

    async def run():
        told = []
        room = Room(places=1)
        trainer = await room("policy_trainer")
        roster = roster_of(2, room, told=told)
        roster.scale_to(3, "asked for")
        await asyncio.sleep(10)
        trainer.kill()
        await roster.start_first("policy_trainer", lambda: room("policy_trainer"))
        assert asyncio.get_running_loop().time() == 10
        assert told[1:] == ["rollout_worker_2 is not started: policy_trainer needs a place first"]
        await asyncio.sleep(100)
        assert len(roster.attendance) == len(roster.attendance.ready()) == 2
        roster.scale_to(3, "asked for again")
        await asyncio.sleep(60)
        assert told[-2:] == ["rollout_worker_2 found no place", "Going on with 2 rollout workers"]

    run_virtually(run())


def test_a_worker_that_the_run_does_not_need_makes_room_for_a_role_that_finds_no_place():
    async def run():
        told = []
        room = Room(places=1)
        roster = roster_of(2, room, told=told)
        roster.scale_to(3, "asked for")
        await asyncio.sleep(10)
        assert len(roster.attendance.ready()) == 3
        roster.attendance.ready()[0].num_groups = roster.attendance.ready()[1].num_groups = (
            1  # it is the idle one that goes
        )
        with pytest.raises(RoleTimeoutError):
            await roster.start_first("policy_trainer", lambda: room("policy_trainer"))
        assert told[-1] == "3 -> 2 rollout workers: policy_trainer was not up in time, and may lack room"
        await roster.start_first("policy_trainer", lambda: room("policy_trainer"))
        assert asyncio.get_running_loop().time() == 60
        assert len(roster.attendance) == len(roster.attendance.ready()) == 2

    run_virtually(run())


def test_a_worker_that_missed_the_publish_in_which_the_trainer_went_makes_room_as_well():
    async def run():
        told = []
        room = Room(places=1)
        roster = roster_of(2, room, told=told)
        roster.scale_to(3, "asked for")
        await asyncio.sleep(10)
        for worker in roster.attendance.workers:
            worker.move("load")
            worker.move("miss")
        roster.attendance.workers[0].num_groups = roster.attendance.workers[1].num_groups = (
            1  # the third has the place
        )
        with pytest.raises(RoleTimeoutError):
            await roster.start_first("policy_trainer", lambda: room("policy_trainer"))
        await roster.start_first("policy_trainer", lambda: room("policy_trainer"))
        assert [str(worker) for worker in roster.attendance.workers] == [
            f"rollout_worker_{i} (stale)" for i in (0, 1)
        ]

    run_virtually(run())


def test_another_role_gets_its_place_before_the_successor_of_a_worker_that_the_run_does_not_need():
    """Both went with their node; a place comes after 10 s, and the next one 20 s later."""

    async def run():
        told = []
        room = Room(places=1)
        roster = roster_of(1, room, told=told)
        roster.scale_to(2, "asked for")
        await asyncio.sleep(10)
        lost = roster.attendance.ready()[1]
        lost.role.is_ended = True  # its place went with the node
        roster.lost(lost, RoleDiedError("it is gone"))
        await asyncio.sleep(0)
        trainer = asyncio.create_task(roster.start_first("policy_trainer", lambda: room("policy_trainer")))
        await asyncio.sleep(10)
        room.give()
        await trainer
        assert asyncio.get_running_loop().time() == 20
        assert [str(worker) for worker in roster.attendance.workers] == ["rollout_worker_0 (ready)"]
        assert told[-1] == "rollout_worker_1 is not started: policy_trainer needs a place first"
        roster.scale_to(2, "asked for again")
        await asyncio.sleep(20)
        room.give()
        await asyncio.sleep(1)
        assert len(roster.attendance.ready()) == 2

    run_virtually(run())


def test_another_role_gets_its_place_though_it_is_noticed_later_that_a_worker_went_with_the_same_node():
    async def run():
        told = []
        room = Room(places=1)
        roster = roster_of(1, room, told=told)
        roster.scale_to(2, "asked for")
        await asyncio.sleep(10)
        lost = roster.attendance.ready()[1]
        lost.role.is_ended = True  # its place went with the node
        scorer = asyncio.create_task(
            roster.start_first("reward_model", lambda: after_s(5, room, "reward_model"))
        )
        await asyncio.sleep(1)
        roster.lost(lost, RoleDiedError("it is gone"))
        await asyncio.sleep(9)
        room.give()
        await scorer
        assert asyncio.get_running_loop().time() == 20
        assert [str(worker) for worker in roster.attendance.workers] == ["rollout_worker_0 (ready)"]
        assert told[-2:] == [
            "rollout_worker_1 is not started: another role needs a place first",
            "Going on with 1 rollout workers",
        ]

    run_virtually(run())


async def after_s(seconds: float, start, name: str) -> Role:
    await asyncio.sleep(seconds)
    return await start(name)


def test_a_start_that_is_given_up_is_not_counted_when_one_that_the_run_needs_fails_in_the_same_moment():
    async def run():
        starts = {}

        async def start(name: str) -> Role:
            starts[name] = asyncio.get_running_loop().create_future()
            return await starts[name]

        roster = roster_of(2, start, told=[])
        roster.lost(roster.attendance.ready()[1], RoleDiedError("it is gone"))
        roster.scale_to(3, "asked for")
        await asyncio.sleep(1)
        assert list(starts) == ["rollout_worker_1", "rollout_worker_2"]
        starts["rollout_worker_1"].set_exception(RoleTimeoutError("it did not start"))
        await roster.start_first("policy_trainer", lambda: asyncio.sleep(1))
        starts["rollout_worker_1"].set_result(endless("rollout_worker_1"))
        await roster.attendance.until_enough("publish")
        assert len(roster.attendance) == len(roster.attendance.ready()) == 2

    run_virtually(run())


def test_no_worker_beyond_what_the_run_needs_is_asked_for_while_another_role_has_no_place():
    async def run():
        told = []
        room = Room(places=0)
        roster = roster_of(1, room, told=told)
        trainer = asyncio.create_task(roster.start_first("policy_trainer", lambda: room("policy_trainer")))
        await asyncio.sleep(10)
        roster.scale_to(2, "asked for by hand")
        assert (len(roster.attendance), told) == (1, [])
        room.give()
        await trainer
        roster.scale_to(2, "asked for by hand")
        assert (len(roster.attendance), told) == (2, ["1 -> 2 rollout workers: asked for by hand"])

    run_virtually(run())


def test_a_worker_that_the_run_needs_is_not_given_up_when_one_with_spent_restarts_keeps_its_place():
    async def run():
        told = []
        start = FailingStarts(0)
        roster = roster_of(2, start, each_role=0, told=told)
        roster.scale_to(3, "asked for")
        await asyncio.sleep(5)
        roster.lost(roster.attendance.ready()[0], RoleDiedError("it is gone"))
        await asyncio.sleep(0)
        await roster.start_first("policy_trainer", lambda: asyncio.sleep(1))
        await roster.attendance.until_enough("publish")
        assert [str(worker) for worker in roster.attendance.ready()] == [
            f"rollout_worker_{i} (ready)" for i in (1, 2)
        ]

    run_virtually(run())


def test_workers_that_the_run_needs_make_room_for_no_other_role():
    async def run():
        room = Room(places=0)
        roster = roster_of(2, room, told=[])
        roster.lost(roster.attendance.ready()[0], RoleDiedError("it is gone"))
        with pytest.raises(RoleTimeoutError):
            await roster.start_first("policy_trainer", lambda: room("policy_trainer"))
        assert len(roster.attendance) == 2
        assert len(roster.attendance.ready()) == 1

    run_virtually(run())


def test_scaling_down_leaves_those_that_serve_as_long_as_others_only_come():
    async def run():
        roster = roster_of(2, FailingStarts(0), told=[])
        roster.scale_to(4, "asked for")
        roster.scale_to(2, "asked for")
        assert len(roster.attendance.ready()) == 2
        await asyncio.sleep(60)
        roster.scale_to(2, "asked for")
        await asyncio.sleep(1)
        assert len(roster.attendance.workers) == len(roster.attendance.ready()) == 2

    run_virtually(run())


def test_a_worker_that_does_not_end_its_groups_is_ended_at_the_deadline_of_a_group():
    async def run():
        told = []
        roster = roster_of(2, FailingStarts(0), told=told)
        [leaving, _] = roster.attendance.workers
        leaving.num_groups = 1
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
