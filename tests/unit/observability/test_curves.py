"""Metrics as a line of bars."""

import json
from pathlib import Path

from rl_empathy.observability.curves import curves, last_steps, sparkline


def test_bars_go_from_the_lowest_to_the_highest_mean() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 2, 6, 8], width=2) == "▁█", "means 1 and 7"
    assert sparkline([5, 5, 5]) == "▁▁▁"


def test_a_stages_curves_are_those_of_losses_and_rewards(tmp_path: Path) -> None:
    lines = [
        {"stage": "sft", "step": 1, "sft/loss": 9.0},
        *(
            {"stage": "grpo", "step": step, "reward/mean": reward, "time/step_s": 1.0, "policy/loss": None}
            for step, reward in enumerate([0.5, 0.75, 1.25], start=1)
        ),
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert curves(tmp_path / "metrics.jsonl", "grpo") == ["reward/mean       0.5 ▁▃█ 1.25"]
    assert curves(tmp_path / "metrics.jsonl", "sft") == [], "one value is no course"


def test_a_run_that_writes_is_read_without_its_torn_last_line(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    lines = [
        {"stage": stage, "step": step, "sft/loss": 2.0 - step} for stage, step in (("sft", 1), ("sft", 2))
    ]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "grpo", "st')
    assert last_steps(metrics) == {"sft": 2}
    assert curves(metrics, "sft") == ["sft/loss         1 █▁ 0"]
    assert last_steps(tmp_path / "none.jsonl") == {}
