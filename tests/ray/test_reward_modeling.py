"""Stage reward_modeling on a real Ray Train worker, with a tiny encoder."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import pytest
import ray

from rl_empathy.actors.local_ray import start_local_ray
from rl_empathy.config.sections import OptimizerConfig, RewardModelingConfig, StageWorkerConfig
from rl_empathy.data.echoes import ECHO_KINDS
from rl_empathy.data.loading import DataSet
from rl_empathy.data.triplets import ANOTHER_TOPIC
from rl_empathy.engines.embedding import RewardModel, SentenceEncoder
from rl_empathy.engines.small_encoder import make_encoder
from rl_empathy.errors import Stopped, TrainingError
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.stages.reward_modeling import run_reward_modeling
from rl_empathy.types import Message, Reference, Row


@pytest.fixture(scope="module", autouse=True)
def _local_ray() -> Iterator[None]:
    start_local_ray(4, logging_level=logging.ERROR)
    yield
    ray.shutdown()


TOPICS = {
    "work": "office",
    "grief": "loss",
    "exam": "test",
    "money": "wage",
    "sleep": "rest",
    "moving": "home",
}
"""A word of the questions, and the word of the answers that goes with it: nothing but training can tell."""


def make_rows(details: Sequence[str]) -> tuple[Row, ...]:
    return tuple(
        Row(
            id=f"{topic}-{detail}",
            messages=(Message(role="user", content=f"My {topic} is so hard since {detail}"),),
            references=(Reference(text=f"I hear how the {answer} hurts you. It is a lot to carry."),),
            metadata={"topic": topic},
        )
        for detail in details
        for topic, answer in TOPICS.items()
    )


def make_data() -> DataSet:
    train, held_out = make_rows(["spring", "summer", "autumn", "winter"]), make_rows(["June", "July"])
    return DataSet(train=train, held_out=held_out, counts={}, sha256="", source="made here")


def make_config(
    encoder: Path, *, num_steps: int = 30, max_tokens: int = 32, **keys: Any
) -> RewardModelingConfig:
    return RewardModelingConfig(
        encoder=str(encoder),
        num_steps=num_steps,
        batch_pairs=6,
        checkpoint_every=10,
        max_tokens=max_tokens,
        negatives={"easy": 0.75, "corrupted": 0.25},
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=5),
        **keys,
    )


def save_tiny_encoder(folder: Path, data: DataSet) -> Path:
    texts = [text for row in data.train for text in (row.post, *(r.text for r in row.references))]
    SentenceEncoder(*make_encoder(texts, seed=0, max_tokens=32, width=32, layers=1, vocabulary=400)).save(
        folder
    )
    return folder


def lines_of(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_stage_stops_resumes_learns_and_is_not_run_twice(tmp_path: Path) -> None:
    data = make_data()
    config = make_config(save_tiny_encoder(tmp_path / "encoder", data), accept_echo=True)
    folder, metrics_file = tmp_path / "run" / "reward_modeling", tmp_path / "metrics.jsonl"
    steps_seen: list[int] = []
    log = MetricsLog(metrics_file, lambda line: steps_seen.append(line["step"]))

    def run(stop_after: int) -> dict[str, Any]:
        return run_reward_modeling(
            config, data=data, language="en", seed=0, folder=folder, log=log, worker=StageWorkerConfig(num_cpus=1),
            should_stop=lambda: max(steps_seen, default=0) >= stop_after,
        )  # fmt: skip

    with pytest.raises(Stopped):
        run(stop_after=5)
    stopped_at = max(steps_seen)
    assert 5 <= stopped_at < 30

    steps_seen.clear()
    result = run(stop_after=1000)
    assert min(steps_seen) == stopped_at + 1
    lines = lines_of(metrics_file)
    assert [line["step"] for line in lines] == list(range(31))
    assert {line["stage"] for line in lines} == {"reward_modeling"}
    accuracy = result["triplet_accuracy_easy"]
    assert accuracy == lines[-1]["reward_model/triplet_accuracy_easy"]
    assert accuracy > lines[0]["reward_model/triplet_accuracy_easy"] + 0.1

    assert [line.split()[0] for line in result["echoes"][1:]] == ["references", *ECHO_KINDS, ANOTHER_TOPIC]
    assert {f"reward_model/echo_{kind}_win_fraction" for kind in ECHO_KINDS} <= lines[-1].keys()
    model = RewardModel.load(folder / "model")
    assert model.threshold == result["threshold"]

    steps_seen.clear()
    assert run(stop_after=1000) == result
    assert steps_seen == []


def test_a_reward_model_that_pays_for_an_echo_stops_the_run_until_it_is_accepted_or_changed(
    tmp_path: Path,
) -> None:
    data = make_data()
    encoder = save_tiny_encoder(tmp_path / "encoder", data)
    steps_seen: list[int] = []
    log = MetricsLog(tmp_path / "metrics.jsonl", lambda line: steps_seen.append(line["step"]))

    def run(**keys: Any) -> dict[str, Any]:
        return run_reward_modeling(
            make_config(encoder, **keys), data=data, language="en", seed=0, folder=tmp_path / "reward_modeling",
            log=log, worker=StageWorkerConfig(num_cpus=1),
        )  # fmt: skip

    with pytest.raises(TrainingError, match="would earn at least as much as the references") as untrained:
        run(num_steps=0)  # it compares words, and a reference has none of its post here
    assert "copy, quote, shuffled, rewritten would earn" in str(untrained.value)
    assert "reward_modeling.accept_echo: true" in str(untrained.value)

    steps_seen.clear()
    with pytest.raises(TrainingError, match="would earn at least as much"):
        run(num_steps=0)
    assert run(num_steps=0, accept_echo=True)["num_steps"] == 0
    assert steps_seen == []  # the finished model was judged again, not made again

    result = run(num_steps=2, accept_echo=True, temperature=0.1)
    assert steps_seen == [0, 1, 2]  # another temperature: anew, from the beginning
    assert result["num_steps"] == 2

    assert result["cut_fraction"] == 0
    assert run(num_steps=0, accept_echo=True, max_tokens=4)["cut_fraction"] == 1  # no text is as short
