from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rl_empathy.config.advice import advice, warm_up_advice
from rl_empathy.config.loading import load_run_file
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


def test_a_reward_model_of_a_few_steps_leaves_its_warm_up_by_default() -> None:
    assert advice(make_run_file(run={"stages": ["reward_modeling"]}, reward_modeling={"num_steps": 6})) == []


@pytest.mark.parametrize("wrong", [-1, 1.5, 2.5])
def test_a_warm_up_is_whole_steps_or_a_share_below_one(wrong: float) -> None:
    with pytest.raises(ValidationError):
        OptimizerConfig(warmup_steps=wrong)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"sft": {"num_steps": 9, "num_epochs": 2}}, "sft.num_epochs has no effect: sft.num_steps"),
        (
            {"reward_modeling": {"margin": 0.5}},
            "reward_modeling.margin has no effect: reward_modeling.loss is infonce",
        ),
        (
            {"reward_modeling": {"loss": "triplet", "temperature": 0.1}},
            "reward_modeling.temperature has no effect: reward_modeling.loss is triplet",
        ),
        ({"grpo": {"loss": "clip", "tis_cap": 3}}, "grpo.tis_cap has no effect: grpo.loss is clip"),
        ({"grpo": {"mask_low": 0.1}}, "grpo.mask_low has no effect: grpo.loss is tis"),
        ({"grpo": {"mask_high": 9}}, "grpo.mask_high has no effect: grpo.loss is tis"),
        (
            {"grpo": {"clip_low": 0.1}},
            "grpo.clip_low has no effect: grpo.loss is tis and grpo.updates_per_step is 1",
        ),
        (
            {"grpo": {"kl_coef": 0, "kl_estimator": "k3_plain"}},
            "grpo.kl_estimator has no effect: grpo.kl_coef is 0",
        ),
        ({"logging": {"wandb": "disabled", "wandb_project": "x"}}, "logging.wandb_project has no effect"),
        (
            {"rewards": {"terms": [{"kind": "embedding", "name": "fit", "threshold": 0.5}]}},
            "threshold of the reward term fit has no effect: its mode is raw",
        ),
    ],
)
def test_a_key_that_another_one_makes_idle_is_named(sections: dict[str, Any], told: str) -> None:
    (line,) = [line for line in advice(make_run_file(**sections)) if "no effect" in line]
    assert line.startswith(told)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[3] / "configs").glob("*.yaml")), ids=lambda path: path.stem
)
def test_no_shipped_run_file_works_against_itself(path: Path) -> None:
    """Neither a key without effect, nor a warm-up that never ends."""
    assert advice(load_run_file(path, check_paths=False)) == []
