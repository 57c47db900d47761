"""Several processes that are one role: whose error is told, and when."""

import asyncio
from pathlib import Path

import pytest
from ray.exceptions import RayActorError, RayTaskError

from rl_empathy.errors import RoleDiedError, RoleTimeoutError, TrainingError
from rl_empathy.orchestration.fleet import ranks as module
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.ranks import Ranks, all_or_none
from tests.virtual_clock import run_virtually


class ScriptedActor:
    """Answers after a time, or fails."""

    def __init__(self, after_s: float, outcome: object) -> None:
        self._after_s, self._outcome = after_s, outcome

    async def work(self) -> object:
        await asyncio.sleep(self._after_s)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("work", "the traceback", cause).as_instanceof_cause()


CLOSED = task_error(RuntimeError("connection closed by peer"))


def call(*actors: ScriptedActor, seconds: float = 5.0) -> object:
    roles = [Role(name=f"rank_{i}", actor=actor, log=Path("log")) for i, actor in enumerate(actors)]
    ranks = Ranks(name="trainer", roles=roles)
    return asyncio.run(ranks.call(lambda actor: actor.work(), seconds=seconds, doing="work"))


def test_rank_0_answers_when_all_have():
    assert call(ScriptedActor(0.0, "first"), ScriptedActor(0.05, None)) == "first"


def test_a_rank_that_is_lost_explains_what_its_partner_met_before():
    with pytest.raises(RoleDiedError, match="rank_1 died"):
        call(ScriptedActor(0.0, CLOSED), ScriptedActor(0.05, RayActorError()))


def test_an_error_of_ours_says_more_than_what_the_other_ranks_met_in_a_collective():
    with pytest.raises(TrainingError, match="not finite"):
        call(ScriptedActor(0.0, CLOSED), ScriptedActor(0.05, task_error(TrainingError("not finite"))))


def test_a_rank_that_waits_for_a_failed_one_is_not_waited_for_long(monkeypatch):
    monkeypatch.setattr(module, "SETTLE_S", 0.05)
    with pytest.raises(TrainingError):
        call(ScriptedActor(100.0, "late"), ScriptedActor(0.0, task_error(TrainingError("no"))), seconds=200.0)


def test_a_rank_that_is_lost_is_named_at_once_though_its_partner_hangs():
    async def run():
        roles = [
            Role(name=f"rank_{i}", actor=actor, log=Path("log"))
            for i, actor in enumerate((ScriptedActor(1000.0, "late"), ScriptedActor(3.0, RayActorError())))
        ]
        with pytest.raises(RoleDiedError, match="rank_1 died"):
            await Ranks(name="trainer", roles=roles).call(lambda a: a.work(), seconds=2000, doing="work")
        assert asyncio.get_running_loop().time() == pytest.approx(3.0)

    run_virtually(run())


def test_a_rank_that_is_late_is_named():
    with pytest.raises(RoleTimeoutError, match=r"rank_1 did not work within 0\.05 s"):
        call(ScriptedActor(0.0, "first"), ScriptedActor(100.0, None), seconds=0.05)


def test_when_one_rank_cannot_start_nothing_is_left_of_the_others():
    class EndingRole(Role):
        ended = False

        def kill(self) -> None:
            self.ended = True

    up = EndingRole(name="rank_0", actor=None, log=Path("log"))

    async def start(role: Role | None) -> Role:
        if role is None:
            raise RoleDiedError("rank_1 died at its start")
        return role

    with pytest.raises(RoleDiedError, match="rank_1"):
        asyncio.run(all_or_none([start(up), start(None)]))
    assert up.ended
