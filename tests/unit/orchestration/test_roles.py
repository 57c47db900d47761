"""What roles are started with, first and anew."""

from types import SimpleNamespace

import pytest

from rl_empathy.config.loading import load_run_file
from rl_empathy.errors import RoleDiedError
from rl_empathy.orchestration import roles
from rl_empathy.orchestration.fleet.restarts import RestartBudget
from rl_empathy.orchestration.memory_record import MemoryRecord
from tests.fakes import endless
from tests.virtual_clock import run_virtually


@pytest.mark.parametrize(
    ("rollouts_of_steps", "scored_before_the_loss", "told_to_the_second"),
    [(0, False, False), (0, True, True), (1, False, True)],
)
def test_a_reward_model_is_told_that_its_terms_have_worked_only_when_they_have(
    tmp_path, monkeypatch, rollouts_of_steps, scored_before_the_loss, told_to_the_second
):
    """What is told then: one that raises is no mistake of the run file, and costs a group, not the run (C3)."""
    told, scored = [], []

    async def start_role(name, *_, have_worked, **__):
        told.append(have_worked)
        return endless(f"{name} {len(told)}")

    async def call(role) -> None:
        if role.name == "reward_model 1" and len(scored) == scored_before_the_loss:
            raise RoleDiedError("it is gone")
        scored.append(role)

    async def run():
        context = SimpleNamespace(
            run_file=load_run_file("configs/quickstart.yaml", []),
            directory=SimpleNamespace(logs=tmp_path, stage=lambda name: tmp_path),
            schema=None,
            memory=MemoryRecord(),
            progress=SimpleNamespace(warning=lambda text: None),
            workers=None,
            reward_model=None,
        )
        context.budget = RestartBudget(context.run_file.cluster.restarts, lambda text: None)
        await roles.reward_model(context, tokenizer=tmp_path, embedding=None)
        for _ in range(1 + scored_before_the_loss):
            await context.reward_model.call(call)

    for step in range(rollouts_of_steps):
        (tmp_path / f"step_{step + 1:06}.jsonl").touch()
    monkeypatch.setattr(roles, "start_role", start_role)
    run_virtually(run())
    assert told == [rollouts_of_steps > 0, told_to_the_second]
