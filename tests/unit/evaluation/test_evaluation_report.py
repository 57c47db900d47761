"""Models side by side: intervals, differences, JSON and table."""

import io
import json

import pytest
from rich.console import Console
from rich.table import Table

from rl_empathy.errors import DataError
from rl_empathy.evaluation.report import (
    ModelEvaluation,
    ScoredCompletion,
    compare,
    comparison_table,
    evaluate_completions,
    to_json,
)
from rl_empathy.schema import CHAIN_OF_EMPATHY
from rl_empathy.types import Message, Reference, Row

ROWS = [
    Row(
        id=f"row-{i}",
        messages=(Message(role="user", content=f"我的烦恼是{worry}。"),),
        references=(Reference(text="我知道你很辛苦。"),),
    )
    for i, worry in enumerate(("工作压力很大", "晚上睡不着觉", "和男朋友分手了", "考试成绩太差"))
]
WHOLE = CHAIN_OF_EMPATHY.render(
    {"L1": "很辛苦", "L2": "压力大", "L3": "想被理解", "L4": "先共情", "answer": "我知道你很辛苦。"}
)


def make_evaluation(name: str, *, rewards: list[float], text: str = WHOLE, rows=ROWS) -> ModelEvaluation:
    """One completion a row, with that reward."""
    completions = {
        row.id: [
            ScoredCompletion(
                prompt_id=row.id,
                text=text,
                finish_reason="stop",
                tokens=9,
                rewards={"answer": reward},
                reward=reward,
            )
        ]
        for row, reward in zip(rows, rewards, strict=True)
    }
    return evaluate_completions(
        name, rows, completions, CHAIN_OF_EMPATHY, "zh", bootstrap_samples=200, seed=0
    )


def printed(table: Table) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=200).print(table)
    return stream.getvalue().splitlines()


def test_an_evaluation_has_means_with_intervals() -> None:
    evaluation = make_evaluation("sft", rewards=[0, 1, 2, 3])
    reward = evaluation.measures["reward/mean"]
    assert reward.mean == 1.5
    assert reward.low is not None
    assert reward.high is not None
    assert 0 <= reward.low < 1.5 < reward.high <= 3
    assert evaluation.measures["schema/valid_fraction"].mean == 1
    assert evaluation.measures["text/rouge_l"].mean == 1
    assert evaluation.corpus["text/bleu_corpus"] == pytest.approx(100)


def test_a_model_without_any_valid_completion_is_evaluated() -> None:
    evaluation = make_evaluation("base", rewards=[0, 0, 0, 0], text="辛苦了")
    assert evaluation.measures["schema/valid_fraction"].mean == 0
    assert evaluation.measures["schema/error/missing_fraction"].mean == 1
    assert evaluation.measures["trace/grounded_fraction"].mean == 0
    assert "text/distinct_1" not in evaluation.measures


def test_a_row_without_completions_is_counted_and_is_no_zero() -> None:
    one = ScoredCompletion(
        prompt_id="row-0",
        text=WHOLE,
        finish_reason="stop",
        tokens=9,
        rewards={"answer": None},
    )
    evaluation = evaluate_completions(
        "sft", ROWS, {"row-0": [one], "row-1": []}, CHAIN_OF_EMPATHY, "zh", bootstrap_samples=20, seed=0
    )
    assert (evaluation.num_prompts, evaluation.num_prompts_without_completions) == (1, 3)
    assert (evaluation.num_completions, evaluation.num_failed_rewards) == (1, 1)
    assert evaluation.measures["schema/valid_fraction"].mean == 1
    assert evaluation.measures["schema/valid_fraction"].low is None
    assert "reward/answer/mean" not in evaluation.measures


def test_a_model_without_completions_has_no_measures() -> None:
    evaluation = evaluate_completions("sft", ROWS, {}, CHAIN_OF_EMPATHY, "zh", bootstrap_samples=20, seed=0)
    assert evaluation.measures == {}
    assert evaluation.num_prompts_without_completions == 4


def test_compare_pairs_neighbours_and_each_with_the_first() -> None:
    models = [
        make_evaluation(name, rewards=[reward] * 4) for name, reward in zip("abcd", range(4), strict=True)
    ]
    rewards = {
        (one.before, one.after): one.interval.mean for one in compare(models) if one.measure == "reward/mean"
    }
    assert rewards == {("a", "b"): 1, ("b", "c"): 1, ("c", "d"): 1, ("a", "c"): 2, ("a", "d"): 3}


def test_compare_leaves_out_what_only_one_model_has() -> None:
    models = [make_evaluation("a", rewards=[0] * 4, text="?"), make_evaluation("b", rewards=[1] * 4)]
    compared = {one.measure for one in compare(models)}
    assert "reward/answer/mean" in compared
    assert "text/distinct_1" not in compared


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_compare_gives_no_differences(count: int) -> None:
    assert compare([make_evaluation("a", rewards=[0] * 4)][:count]) == []


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(DataError, match="names must differ, got a, a"):
        compare([make_evaluation("a", rewards=[0] * 4)] * 2)


def test_the_json_holds_fingerprint_versions_and_numbers_but_no_text() -> None:
    models = [make_evaluation("base", rewards=[0] * 4), make_evaluation("sft", rewards=[0, 1, 2, 3])]
    text = json.dumps(to_json(models, ROWS, file_sha256="abc"), allow_nan=False, ensure_ascii=False)
    report = json.loads(text)
    assert len(report["data"]["rows_sha256"]) == 64
    assert report["data"]["file_sha256"] == "abc"
    assert report["versions"]["sacrebleu"]
    assert report["models"][1]["num_completions"] == 4
    assert report["models"][1]["measures"]["reward/mean"]["mean"] == 1.5
    assert report["models"][1]["prompt_means"]["reward/mean"]["row-3"] == 3
    assert report["differences"][0].keys() == {"measure", "before", "after", "interval"}
    assert "辛苦" not in text
    assert "烦恼" not in text


def test_the_table_marks_a_difference_whose_interval_excludes_zero() -> None:
    models = [make_evaluation("sft", rewards=[0, 1, 2, 3]), make_evaluation("grpo", rewards=[1, 2, 3, 4.5])]
    lines = printed(comparison_table(models))
    reward = next(line for line in lines if "reward/mean" in line)
    validity = next(line for line in lines if "schema/valid_fraction" in line)
    assert "1.500 [" in reward
    assert "1.125 [1.000, " in reward
    assert "] *" in reward
    assert "1.000 [1.000, 1.000]" in validity
    assert "*" not in validity
    assert "grpo - sft" in "".join(lines)


def test_the_table_of_one_model_has_no_difference() -> None:
    table = comparison_table([make_evaluation("[sft]", rewards=[0] * 4)])
    assert len(table.columns) == 2
    assert "[sft]" in "".join(printed(table))


def test_the_table_shows_a_dash_where_a_model_lacks_a_measure() -> None:
    models = [make_evaluation("base", rewards=[0] * 4, text="?"), make_evaluation("sft", rewards=[0] * 4)]
    distinct = next(line for line in printed(comparison_table(models)) if "text/distinct_1 " in line)
    assert [cell.strip() for cell in distinct.split("│")[2:-1]][::2] == ["-", "-"]


def test_the_table_has_the_measures_of_a_span_together_whichever_model_has_them_first() -> None:
    models = [make_evaluation("base", rewards=[0] * 4, text="?"), make_evaluation("sft", rewards=[0] * 4)]
    measures = [line.split("│")[1].strip() for line in printed(comparison_table(models)) if "span/" in line]
    assert measures[:4] == [
        "span/L1/present_fraction", "span/L1/length_characters",
        "span/L2/present_fraction", "span/L2/length_characters",
    ]  # fmt: skip


def test_the_table_of_no_models_is_empty() -> None:
    assert comparison_table([]).row_count == 0


def test_a_single_prompt_is_evaluated_and_compared() -> None:
    models = [
        make_evaluation("a", rewards=[0], rows=ROWS[:1]),
        make_evaluation("b", rewards=[1], rows=ROWS[:1]),
    ]
    difference = next(one for one in compare(models) if one.measure == "reward/mean")
    assert (difference.interval.mean, difference.interval.low) == (1, None)
    assert not any("*" in line for line in printed(comparison_table(models)) if "reward/" in line)
