"""Stage reward_modeling on a real Ray Train worker, with a tiny encoder and the bundled text."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import pytest
import ray

from rl_empathy.config.sections import DataConfig, OptimizerConfig, RewardModelingConfig
from rl_empathy.data.loading import DataSet, load_data
from rl_empathy.engines.embedding import RewardModel, SentenceEncoder
from rl_empathy.engines.small_encoder import make_encoder
from rl_empathy.errors import Stopped
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.reward_modeling import run_reward_modeling


@pytest.fixture(scope="module", autouse=True)
def _local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data(DataConfig(held_out_prompts=32), seed=0)


def make_config(encoder: Path, *, num_steps: int = 60) -> RewardModelingConfig:
    return RewardModelingConfig(
        encoder=str(encoder),
        num_steps=num_steps,
        checkpoint_every=20,
        max_tokens=64,
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=5),
    )


def save_tiny_encoder(folder: Path, data: DataSet) -> Path:
    texts = [text for row in data.train for text in (row.post, *(r.text for r in row.references))]
    SentenceEncoder(*make_encoder(texts, seed=0, max_tokens=64, width=64, layers=1, vocabulary=2000)).save(
        folder
    )
    return folder


def lines_of(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_stage_stops_resumes_learns_and_is_not_run_twice(tmp_path: Path, data: DataSet) -> None:
    config = make_config(save_tiny_encoder(tmp_path / "encoder", data))
    folder, metrics_file = tmp_path / "run" / "reward_modeling", tmp_path / "metrics.jsonl"
    steps_seen: list[int] = []
    log = MetricsLog(metrics_file, lambda line: steps_seen.append(line["step"]))

    def run(stop_after: int) -> dict[str, object]:
        return run_reward_modeling(
            config, data=data, language="en", seed=0, folder=folder, log=log, num_cpus=1, num_gpus=0,
            should_stop=lambda: max(steps_seen, default=0) >= stop_after,
        )  # fmt: skip

    with pytest.raises(Stopped):
        run(stop_after=5)
    stopped_at = max(steps_seen)
    assert 5 <= stopped_at < 60

    steps_seen.clear()
    result = run(stop_after=1000)
    assert min(steps_seen) == stopped_at + 1
    lines = lines_of(metrics_file)
    assert [line["step"] for line in lines] == list(range(61))
    assert {line["stage"] for line in lines} == {"reward_modeling"}
    accuracy = result["triplet_accuracy"]
    assert isinstance(accuracy, float)
    assert accuracy == lines[-1]["reward_model/triplet_accuracy"]
    assert accuracy > lines[0]["reward_model/triplet_accuracy"] + 0.05

    assert result["model"] == "reward_modeling/model"
    model = RewardModel.load(tmp_path / "run" / str(result["model"]))
    assert model.threshold == result["threshold"]

    steps_seen.clear()
    assert run(stop_after=1000) == result
    assert steps_seen == []
