import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rl_empathy.observability.metrics import MetricsLog


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_stage_step_time_and_the_merged_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path).write("grpo", 3, {"reward/mean": 0.5}, {"ledger/trained": 8})
    (line,) = lines_of(path)
    assert list(line) == ["stage", "step", "time", "ledger/trained", "reward/mean"]
    assert (line["stage"], line["step"], line["reward/mean"], line["ledger/trained"]) == ("grpo", 3, 0.5, 8)


def test_a_number_that_is_not_finite_becomes_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path).write("sft", 1, {"a/nan": float("nan"), "a/inf": float("inf")})
    assert [lines_of(path)[0][key] for key in ("a/nan", "a/inf")] == [None, None]


def test_every_sink_sees_the_line_that_is_written(tmp_path: Path) -> None:
    seen: list[Mapping[str, Any]] = []
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path, seen.append, seen.append).write("sft", 1, {"sft/loss": 2.0})
    assert seen == lines_of(path) * 2


def test_cutting_back_forgets_later_lines_of_that_stage_only(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for stage, step in [("sft", 1), ("sft", 9), ("grpo", 1), ("grpo", 2), ("grpo", 3)]:
        log.write(stage, step)
    assert log.cut_back("grpo", 1) == 2
    assert [(line["stage"], line["step"]) for line in lines_of(path)] == [("sft", 1), ("sft", 9), ("grpo", 1)]


def test_lines_end_at_a_line_feed_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        json.dumps({"stage": "grpo", "step": step, "note": "a\u2028b\u2029c\x85d"}, ensure_ascii=False)
        for step in (1, 2)
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    assert MetricsLog(path).cut_back("grpo", 1) == 1
    assert path.read_text(encoding="utf-8") == f"{lines[0]}\n"


def test_cutting_back_without_a_file_forgets_nothing(tmp_path: Path) -> None:
    assert MetricsLog(tmp_path / "metrics.jsonl").cut_back("grpo", 1) == 0


def test_a_line_torn_by_a_kill_is_forgotten_and_the_next_one_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in (1, 2):
        log.write("grpo", step)
    whole = path.read_text()
    for kept in range(len(whole.splitlines(keepends=True)[0]), len(whole)):
        path.write_text(whole[:kept])
        log.cut_back("grpo", 2)
        log.write("grpo", 3)
        steps = [line["step"] for line in lines_of(path)]
        assert steps in ([1, 3], [1, 2, 3])
