from typing import Any

import pytest
from pydantic import ValidationError

from rl_empathy.config.advice import advice, warm_up_advice
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.sections import OptimizerConfig


def make_run_file(**sections: Any) -> RunFile:
    return RunFile.model_validate({"model": {"from_scratch": {}}} | sections)


def test_a_stage_that_never_leaves_its_warm_up_is_named_with_what_it_reaches() -> None:
    run_file = make_run_file(reward_modeling={"num_steps": 6, "optimizer": {"warmup_steps": 8}})
    (line,) = advice(run_file)
    assert "reward_modeling: its 6 optimizer steps never leave the warm-up of 8" in line
    assert "75% of reward_modeling.optimizer.learning_rate" in line  # 6 / 8


def test_every_stage_with_an_optimizer_is_looked_at() -> None:
    slow = {"optimizer": {"warmup_steps": 100}}
    run_file = make_run_file(
        sft={"num_steps": 10, **slow},
        reward_modeling={"num_steps": 10, **slow},
        grpo={"num_steps": 10, "updates_per_step": 2, **slow},
    )
    assert [line.partition(":")[0] for line in advice(run_file)] == ["sft", "reward_modeling", "grpo"]
    assert "its 20 optimizer steps" in advice(run_file)[2]
    assert not advice(run_file.model_copy(update={"run": run_file.run.model_copy(update={"stages": ()})}))


def test_a_share_of_the_steps_always_leaves_the_warm_up() -> None:
    assert warm_up_advice("sft", OptimizerConfig(warmup_steps=0.9), 3) is None
    assert warm_up_advice("sft", OptimizerConfig(warmup_steps=8), 8) is None


@pytest.mark.parametrize("wrong", [-1, 1.5, 2.5])
def test_a_warm_up_is_whole_steps_or_a_share_below_one(wrong: float) -> None:
    with pytest.raises(ValidationError):
        OptimizerConfig(warmup_steps=wrong)
