"""Stage reward_modeling before its first step and after its last one, where it needs no Ray."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rl_empathy.config.sections import RewardModelingConfig, StageWorkerConfig
from rl_empathy.data.loading import COUNTS, DataSet
from rl_empathy.engines.echo_earnings import Earnings
from rl_empathy.engines.embedding import RewardModel, SentenceEncoder
from rl_empathy.engines.small_encoder import make_encoder
from rl_empathy.errors import TrainingError
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.stages.reward_modeling import (
    MODEL_FOLDER,
    prepared,
    run_reward_modeling,
    said_of,
)
from rl_empathy.types import Message, Reference, Row
from tests.unit.engines.test_embedding import make_description

ROWS = tuple(
    Row(
        id=str(number),
        messages=(Message(role="user", content=f"Post number {number} of somebody sad."),),
        references=(Reference(text=f"Reply {number} to it, with care."),),
    )
    for number in range(30)
)
DATA = DataSet(
    train=ROWS[:20], held_out=ROWS[20:], counts=dict.fromkeys(COUNTS, 0), sha256="0" * 64, source="rows"
)


def tiny_encoder() -> SentenceEncoder:
    texts = [text for row in ROWS for text in (row.post, row.references[0].text)]
    return SentenceEncoder(*make_encoder(texts, seed=0, max_tokens=64, width=32, layers=1, vocabulary=400))


def test_what_judges_a_reward_model_is_neither_trained_on_nor_evaluated_on(tmp_path: Path) -> None:
    tiny_encoder().save(tmp_path / "encoder")
    config = RewardModelingConfig(encoder=str(tmp_path / "encoder"), batch_pairs=8, calibration_triplets=50)
    training = prepared(config, DATA, "en", seed=0, folder=tmp_path)
    trained_on = {triplet.question for step in range(20) for triplet in training._draw(step)}
    judged_by = {triplet.question for triplet in training._calibration}
    evaluated_on = {row.post for row in DATA.held_out}
    assert trained_on | judged_by == {row.post for row in DATA.train}
    assert not judged_by & trained_on
    assert {probe.post for probe in training.probes} == evaluated_on


def run_after_its_last_step(folder: Path, config: RewardModelingConfig, **earned: float) -> dict[str, Any]:
    """The end of a stage whose model earns so much in the median for each kind of reply."""
    only_when = {"num_steps", "evaluate_every", "checkpoint_every", "accept_echo"}
    description = make_description(
        num_steps=config.num_steps,
        echoes={kind: asdict(Earnings(median=value, win_fraction=0.0)) for kind, value in earned.items()},
        settings=config.model_dump(mode="json", exclude=only_when),
    )
    RewardModel(tiny_encoder(), description).save(folder / MODEL_FOLDER)
    return run_reward_modeling(
        config,
        data=DATA,
        language="en",
        seed=0,
        folder=folder,
        log=MetricsLog(folder / "metrics.jsonl"),
        worker=StageWorkerConfig(num_cpus=1),
    )


def test_an_echo_that_beats_the_references_ends_the_run_with_the_table_and_the_way_out(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        TrainingError, match=r"(?s)quote would earn .*quote +0\.600.*accept_echo: true"
    ) as ended:
        run_after_its_last_step(tmp_path, RewardModelingConfig(), references=0.5, quote=0.6, copy=0.1)
    assert "copy would earn" not in str(ended.value)


def test_a_reward_model_that_pays_for_no_echo_ends_its_stage_with_the_table(tmp_path: Path) -> None:
    result = run_after_its_last_step(tmp_path, RewardModelingConfig(), references=0.5, quote=0.4)
    assert [line.split()[0] for line in result["echoes"]] == ["what", "references", "quote"]


def test_an_echo_that_pays_is_accepted_where_the_run_file_says_so(tmp_path: Path) -> None:
    config = RewardModelingConfig(accept_echo=True)
    result = run_after_its_last_step(tmp_path, config, references=0.5, quote=0.6)
    assert result["num_steps"] == config.num_steps


def test_the_end_of_the_stage_shows_what_echoes_earn_and_what_the_reward_model_does_not_read() -> None:
    table = ["what it would earn", "references 0.5", "copy 0.0"]
    assert said_of({"echoes": table, "cut_fraction": 0.004, "max_tokens": 256}) == table
    *shown, cut = said_of({"echoes": table, "cut_fraction": 0.25, "max_tokens": 256})
    assert shown == table
    assert "25% of posts and references are longer than the 256 tokens that the reward model reads" in cut
