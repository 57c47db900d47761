"""What roles are started with, first and anew."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from rl_empathy.config.loading import load_run_file
from rl_empathy.errors import RoleDiedError
from rl_empathy.orchestration import roles
from rl_empathy.orchestration.context import Started
from rl_empathy.orchestration.fleet.restarts import RestartBudget
from rl_empathy.orchestration.memory_record import MemoryRecord
from tests.fakes import endless
from tests.tiny_models import make_tiny_model, permute_token_ids
from tests.virtual_clock import run_virtually


@pytest.mark.parametrize(
    ("rollouts_of_steps", "scored_before_the_loss", "told_to_the_second"),
    [(0, False, False), (0, True, True), (1, False, True)],
)
def test_a_reward_model_is_told_that_its_terms_have_worked_only_when_they_have(
    tmp_path, monkeypatch, rollouts_of_steps, scored_before_the_loss, told_to_the_second
):
    """What is told then: one that raises is no mistake of the run file, and costs a group, not the run."""
    told, scored, model = [], [], make_tiny_model(tmp_path.with_name("model"))

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
            directory=SimpleNamespace(path=tmp_path, logs=tmp_path, stage=lambda name: tmp_path),
            schema=None,
            memory=MemoryRecord(),
            progress=SimpleNamespace(warning=lambda text: None),
            started=Started(),
        )
        context.budget = RestartBudget(context.run_file.cluster.restarts, lambda text: None)
        await roles.reward_model(context, tokenizer=model, reward_models={})
        for _ in range(1 + scored_before_the_loss):
            await context.started.reward_model.call(call)

    for step in range(rollouts_of_steps):
        (tmp_path / f"step_{step + 1:06}.jsonl").touch()
    monkeypatch.setattr(roles, "start_role", start_role)
    run_virtually(run())
    assert told == [rollouts_of_steps > 0, told_to_the_second]


@pytest.mark.parametrize("has_reward_model", [False, True])
def test_the_answer_term_is_left_out_and_told_of_where_no_stage_has_made_a_reward_model(
    tmp_path, monkeypatch, has_reward_model
):
    """Without it the only term of these stages would have nothing to score with."""
    given, told = [], []

    async def start_role(name, _, rewards, *__, **___):
        given.extend(term.name for term in rewards.terms)
        return endless(name)

    async def run():
        context = SimpleNamespace(
            run_file=load_run_file(
                "configs/quickstart.yaml",
                ["run.stages=[sft, evaluate]", "rewards.terms=[{kind: embedding, name: answer}]"],
            ),
            directory=SimpleNamespace(path=tmp_path, logs=tmp_path, stage=lambda name: tmp_path),
            schema=None,
            memory=MemoryRecord(),
            progress=SimpleNamespace(warning=told.append),
            started=Started(),
        )
        context.budget = RestartBudget(context.run_file.cluster.restarts, told.append)
        made = {"reward_modeling": tmp_path} if has_reward_model else {}
        await roles.reward_model(context, tokenizer=model, reward_models=made)

    model = make_tiny_model(tmp_path.with_name("written"))
    monkeypatch.setattr(roles, "start_role", start_role)
    run_virtually(run())
    assert given == (["answer"] if has_reward_model else [])
    assert ["answer: left out of the evaluation" in line for line in told] == (
        [] if has_reward_model else [True]
    )


def test_the_reward_model_reads_completions_by_the_tokenizer_and_the_schema_of_the_model_that_wrote_them(
    tmp_path, monkeypatch
):
    started = []

    async def start_role(name, *_, tokenizer_path, schema, **__):
        started.append(endless(f"{name} {Path(tokenizer_path).name} {schema}"))
        return started[-1]

    async def run(*asked):
        context = SimpleNamespace(
            run_file=load_run_file("configs/quickstart.yaml", []),
            directory=SimpleNamespace(path=tmp_path, logs=tmp_path, stage=lambda name: tmp_path),
            memory=MemoryRecord(),
            progress=SimpleNamespace(warning=lambda text: None),
            started=Started(),
        )
        context.budget = RestartBudget(context.run_file.cluster.restarts, lambda text: None)
        for tokenizer, context.schema in asked:
            await roles.reward_model(context, tokenizer=tokenizer, reward_models={})

    model, trained = make_tiny_model(tmp_path / "base"), make_tiny_model(tmp_path / "trained", seed=1)
    permuted = permute_token_ids(model, tmp_path / "permuted")
    monkeypatch.setattr(roles, "start_role", start_role)
    run_virtually(run((model, "plain"), (trained, "plain"), (permuted, "plain"), (permuted, "kardia")))
    assert [role.name for role in started] == [
        "reward_model base plain",
        "reward_model permuted plain",
        "reward_model permuted kardia",
    ]
    assert [role.is_ended for role in started] == [True, True, False]


def test_an_engine_is_used_again_for_a_model_that_fits_it_and_ends_before_another_one_starts(
    tmp_path, monkeypatch
):
    done = []

    class Engine:
        def __init__(self, name, model) -> None:
            self.name, self.log, self.model = name, tmp_path / "log", model

        def kill(self) -> None:
            done.append(f"end {self.model}")

    async def start_role(name, _, __, model, **___):
        done.append(f"start {Path(model).name}")
        return Engine(name, Path(model).name)

    async def look() -> None:
        done.append("look")

    async def run(*models):
        context = SimpleNamespace(
            run_file=load_run_file("configs/quickstart.yaml", ["cluster.rollout_workers={min: 1, max: 1}"]),
            directory=SimpleNamespace(logs=tmp_path),
            progress=SimpleNamespace(message=done.append, warning=done.append),
            started=Started(),
            max_model_tokens=64,
            savings={roles.SEQUENCES: 4},
            memory=SimpleNamespace(add=lambda role: role, look=look),
        )
        context.budget = RestartBudget(context.run_file.cluster.restarts, done.append)
        for model in models:
            await roles.rollout_workers(context, model)

    model, trained = make_tiny_model(tmp_path / "base"), make_tiny_model(tmp_path / "trained", seed=1)
    permuted = permute_token_ids(model, tmp_path / "permuted")
    monkeypatch.setattr(roles, "start_role", start_role)
    run_virtually(run(model, trained, permuted))
    told = [line for line in done if not line.startswith("starting")]
    assert told == ["start base", "look", "end base", "start permuted"]
