"""What a run's models have written, as one reads it."""

import json
from pathlib import Path

import pytest

from rl_empathy.errors import ConfigError, RunDirectoryError
from rl_empathy.observability.samples import evaluated_of, ordered, rollouts_of


def line(number: int, **keys: object) -> str:
    sample = {
        "step": 3,
        "row_id": f"row-{number}",
        "prompt": "我很累。",
        "text": f"reply {number}",
        "reward": 0.1 * number,
        "terms": {"format": 1.0, "empathy": -0.1 * number},
        "finish_reason": "stop",
        "tokens": 7,
    }
    return json.dumps(sample | keys, ensure_ascii=False) + "\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "step_000002.jsonl").write_text(line(9, step=2))
    lines = [line(1), line(3, finish_reason="length"), line(2)]
    (tmp_path / "rollouts" / "step_000003.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def rows(samples: list) -> list[str]:
    return [sample.where.rpartition(" ")[2] for sample in samples]


def test_the_last_step_is_read_and_ordered_by_reward_or_by_a_term(run: Path) -> None:
    written = [*rollouts_of(run, None)]
    assert rows(ordered(written, None, worst_first=True)) == ["row-1", "row-2", "row-3"]
    assert rows(ordered(written, "empathy", worst_first=True)) == ["row-3", "row-2", "row-1"]
    assert rows(ordered(written, None, worst_first=False)) == ["row-3", "row-2", "row-1"]
    assert rows([*rollouts_of(run, 2)]) == ["row-9"]


def test_a_sample_is_a_page_with_post_reply_and_scores(run: Path) -> None:
    page = str([*rollouts_of(run, 3)][1])
    assert page.splitlines() == [
        "── step 3, row row-3   reward 0.300   format 1.000  empathy -0.300   7 tokens (cut)",
        "   我很累。",
        "",
        "   reply 3",
    ]


def test_a_completion_without_a_score_is_not_ordered(run: Path) -> None:
    path = run / "rollouts" / "step_000003.jsonl"
    path.write_text(line(1) + line(2, reward=None))
    assert rows(ordered([*rollouts_of(run, 3)], None, worst_first=True)) == ["row-1"]


def test_what_is_not_there_is_told_with_what_is(run: Path) -> None:
    with pytest.raises(ConfigError, match="no rollouts of step 7; it has those of 2 to 3"):
        [*rollouts_of(run, 7)]
    with pytest.raises(ConfigError, match="no reward term 'warmth'; there are format, empathy"):
        ordered([*rollouts_of(run, 3)], "warmth", worst_first=True)
    with pytest.raises(ConfigError, match="has made no step yet"):
        [*rollouts_of(run / "rollouts", None)]
    with pytest.raises(ConfigError, match="has no model 'sft'; it has none"):
        [*evaluated_of(run, "sft")]


def test_a_damaged_line_is_named(run: Path) -> None:
    (run / "rollouts" / "step_000004.jsonl").write_text(line(1) + '{"step": 4')
    with pytest.raises(RunDirectoryError, match=r"step_000004\.jsonl:2 is damaged"):
        [*rollouts_of(run, None)]
