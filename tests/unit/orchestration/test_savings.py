"""A role that runs out of memory: once it goes on with less, the second time the run ends, and can be resumed."""

import asyncio
import json

import pytest
from ray.exceptions import OutOfMemoryError as RayOutOfMemoryError

from rl_empathy.config.loading import load_run_file
from rl_empathy.config.sections import DeadlinesConfig, RestartsConfig
from rl_empathy.errors import OutOfMemoryError, RoleDiedError, TrainerLostError
from rl_empathy.orchestration.fleet import PolicyTrainerHandle, RestartBudget, Savings
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.ranks import Ranks
from rl_empathy.orchestration.fleet.savings import FILE, MICROBATCH, SEQUENCES, SFT_MICROBATCH
from tests.unit.observability.test_memory import RAY

QUICKSTART = "configs/quickstart.yaml"
ERROR = OutOfMemoryError("it ran out of memory")


def savings(folder, *settings) -> Savings:
    return Savings(folder, load_run_file(QUICKSTART, list(settings), check_paths=False))


@pytest.mark.parametrize(
    ("role", "halved"),
    [
        ("policy_trainer", {MICROBATCH}),
        ("reference_model", {MICROBATCH}),
        ("reward_model", {MICROBATCH}),
        ("rollout_worker_3", {MICROBATCH, SEQUENCES}),
        ("sft", {SFT_MICROBATCH}),
    ],
)
def test_a_role_that_ran_out_is_answered_once_by_halving_what_it_needs(tmp_path, role, halved):
    before, saved = savings(tmp_path), savings(tmp_path)
    told = saved.ran_out(role, ERROR)
    for key in (MICROBATCH, SEQUENCES, SFT_MICROBATCH):
        assert saved[key] == before[key] // 2 if key in halved else saved[key] == before[key]
        assert (f"{key} is halved ({before[key]} -> {before[key] // 2})" in told) == (key in halved)
    with pytest.raises(
        OutOfMemoryError, match=r"a second time: the run ends, .* resumes it.*Smaller make it: "
    ) as end:
        saved.ran_out(role, ERROR)
    assert end.value.exit_code == 3


def test_what_cannot_be_halved_ends_the_run_at_once(tmp_path):
    with pytest.raises(OutOfMemoryError, match=r"reward_modeling\.batch_pairs"):
        savings(tmp_path).ran_out("reward_modeling", ERROR)


def test_a_setting_is_halved_once_however_many_roles_of_a_full_node_are_ended(tmp_path):
    saved = savings(tmp_path)
    before = saved[MICROBATCH]
    saved.ran_out("policy_trainer", ERROR)
    saved.ran_out("rollout_worker_0", ERROR)
    saved.ran_out("rollout_worker_1", ERROR)
    assert saved[MICROBATCH] == before // 2


def test_a_resume_keeps_what_was_halved_until_the_run_file_says_something_else_of_memory(tmp_path):
    first = savings(tmp_path)
    first.ran_out("policy_trainer", ERROR)
    again = savings(tmp_path)
    assert again[MICROBATCH] == first[MICROBATCH]
    with pytest.raises(OutOfMemoryError, match="a second time"):
        again.ran_out("policy_trainer", ERROR)
    assert json.loads((tmp_path / FILE).read_text())["ran_out"] == {"policy_trainer": "it ran out of memory"}
    assert savings(tmp_path, "grpo.microbatch_tokens=300")[MICROBATCH] == 300
    changed = savings(tmp_path, "cluster.policy_trainer.gradient_checkpointing=true")
    assert changed[MICROBATCH] == 2 * first[MICROBATCH]


class Ended:
    """An actor that Ray's monitor has ended: every call raises its notice of fifty lines."""

    def __getattr__(self, name):
        return self

    def options(self, **_):
        return self

    def remote(self, *_):
        answer = asyncio.get_running_loop().create_future()
        answer.set_exception(RayOutOfMemoryError(RAY * 3))
        return answer


class EndedRole(Role):
    def kill(self) -> None:
        """Nothing is left of it."""


def trainer_that_always_runs_out(tmp_path, told) -> PolicyTrainerHandle:
    def ranks() -> Ranks:
        return Ranks(
            name="policy_trainer",
            roles=[EndedRole(name="policy_trainer", actor=Ended(), log=tmp_path / "policy_trainer.log")],
        )

    async def start() -> Ranks:
        return ranks()

    saved = savings(tmp_path)
    budget = RestartBudget(RestartsConfig(), told.append, saved)
    return PolicyTrainerHandle(
        ranks(), start, DeadlinesConfig(), budget, microbatch_tokens=lambda: saved[MICROBATCH]
    )


def test_a_trainer_that_runs_out_is_started_anew_with_half_and_ends_the_run_the_second_time(tmp_path):
    told: list[str] = []

    async def run() -> None:
        trainer = trainer_that_always_runs_out(tmp_path, told)
        with pytest.raises(TrainerLostError) as lost:
            await trainer.update([])
        await trainer.rebuild(lost.value)
        with pytest.raises(TrainerLostError) as lost:
            await trainer.update([])
        await trainer.rebuild(lost.value)

    with pytest.raises(OutOfMemoryError, match="policy_trainer ran out of memory a second time"):
        asyncio.run(run())
    assert "PolicyTrainer 11.30, RolloutWorker 6.41 GB" in told[0]
    assert "grpo.microbatch_tokens is halved" in told[0]


def test_a_long_notice_of_ray_goes_to_the_log_and_two_lines_of_it_to_the_terminal(tmp_path):
    told: list[str] = []

    async def run() -> None:
        trainer = trainer_that_always_runs_out(tmp_path, told)
        with pytest.raises(TrainerLostError) as lost:
            await trainer.update([])
        await trainer.rebuild(lost.value)

    asyncio.run(run())
    assert told[0].count("\n") == 1
    assert str(tmp_path / "policy_trainer.log") in told[0]
    assert "Refer to the documentation" not in "".join(told)
    assert "Refer to the documentation" in (tmp_path / "policy_trainer.log").read_text()


def test_a_death_of_another_cause_costs_a_restart_and_halves_nothing(tmp_path):
    told: list[str] = []
    saved = savings(tmp_path)
    RestartBudget(RestartsConfig(), told.append, saved).spend("policy_trainer", RoleDiedError("killed"))
    assert told == ["killed. Starting policy_trainer anew (restart 1)"]
    assert not (tmp_path / FILE).exists()
