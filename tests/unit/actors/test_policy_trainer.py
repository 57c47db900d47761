"""The policy trainer's actor: what it writes, and what it copies for a checkpoint."""

import json
from dataclasses import replace

import pytest
import torch

from rl_empathy.actors import policy_trainer
from rl_empathy.actors.policy_trainer import PolicyTrainer
from rl_empathy.config.sections import GRPOConfig, OptimizerConfig
from rl_empathy.engines.checkpoints import latest_checkpoint
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.shared_prompt import Sample
from rl_empathy.engines.training import TrainingEngine
from rl_empathy.schema import named_schema
from rl_empathy.types import PolicyVersion
from tests.fakes import make_group, make_rewards
from tests.objectives import OfLogprobs
from tests.tiny_models import make_tiny_model


@pytest.fixture
def trainer(tmp_path) -> PolicyTrainer:
    """After one update; its constructor would divert this process's output."""
    trainer = object.__new__(PolicyTrainer)
    model = PolicyModel(str(make_tiny_model(tmp_path / "model")), dtype="float32", layout="shared_prompt")
    trainer._engine = TrainingEngine(model, OptimizerConfig(), num_steps=2, microbatch_tokens=64)
    trainer._engine.update(OfLogprobs([Sample([1, 2], [[3, 4]])], lambda logprobs: -logprobs.sum()))
    trainer._rank, trainer._version, trainer._copying_s = 0, PolicyVersion(1, 1), 0.0
    trainer._config, trainer._schema = GRPOConfig(), named_schema("chain_of_empathy")
    trainer._folder, trainer._rollouts_folder, trainer._snapshot = tmp_path / "grpo", tmp_path, {}
    return trainer


def first_weight(trainer):
    return next(iter(trainer._engine.weights().values()))


def test_a_snapshot_is_a_copy_where_memory_has_room_for_it(trainer, monkeypatch):
    monkeypatch.setattr(policy_trainer, "available_bytes", lambda: 1 << 40)
    before = first_weight(trainer).clone()
    trainer.snapshot({}, None)
    assert latest_checkpoint(trainer._folder) is None, "it is written beside the next update"
    with torch.no_grad():
        first_weight(trainer).add_(1)
    trainer.write_snapshot()
    policy = latest_checkpoint(trainer._folder).tensors("policy")
    assert torch.equal(next(value for name, value in policy.items() if value.shape == before.shape), before)


def test_a_snapshot_is_written_at_once_where_memory_has_no_room_for_a_copy(trainer, monkeypatch, caplog):
    monkeypatch.setattr(policy_trainer, "available_bytes", lambda: 1000)
    trainer.snapshot({}, None)
    assert latest_checkpoint(trainer._folder).step == 1
    assert not trainer._snapshot, "nothing of it is held any longer"
    assert "training waits while the checkpoint is written" in caplog.text


def test_a_publish_makes_no_copy_of_the_trainers_weights(trainer):
    """Ray's object store gets them as they lie in the trainer's memory."""
    _, published = trainer.weights()
    held = dict(trainer._engine.model.language_model.named_parameters())
    assert published.arrays.keys() <= held.keys()
    for name, array in published.arrays.items():
        assert array.__array_interface__["data"][0] == held[name].data_ptr()


def test_vllm_is_held_against_the_trainer_once_before_a_publish_and_once_after(trainer, monkeypatch):
    compared = []

    def compare(engine, groups, held, *, temperature) -> bool:
        compared.append(held.number)
        return held.number != 1  # under that version no group was written from end to end

    monkeypatch.setattr(policy_trainer, "compare_with_vllm", compare)
    monkeypatch.setattr(policy_trainer, "grpo_step", lambda *_: {})
    trainer._version, trainer._compared = PolicyVersion(1, 0), set()
    for _ in range(5):
        trainer.update([make_rewards(0.0, 1.0)], False, 64, make_group(version=PolicyVersion(1, 0)))
    assert compared == [0, 1, 2]


def test_a_trainer_says_in_which_layout_it_computes_and_why(trainer):
    assert trainer.resume()[1].notes == ()
    trainer._engine.model.note = "Some family is computed in the layout packed"
    assert trainer.resume()[1].notes == ("Some family is computed in the layout packed",)


def test_a_rollout_with_half_an_emoji_is_written(trainer, tmp_path):
    group = make_group()
    cut = replace(group.completions[0], text="I hear \ud83d")
    trainer._write_rollouts(
        [replace(group, completions=(cut, group.completions[1]))], [make_rewards(1.0, 0.0)]
    )
    lines = (tmp_path / "step_000001.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert [json.loads(line)["text"] for line in lines] == ["I hear \ud83d", "text"]
