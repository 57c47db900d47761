"""From scored completions to values by measure and prompt."""

from dataclasses import replace

import pytest

from rl_empathy.errors import DataError
from rl_empathy.evaluation.completions import rows_sha256, shuffled_posts, values_by_measure
from rl_empathy.evaluation.scored import ScoredCompletion
from rl_empathy.schema import CHAIN_OF_EMPATHY, PLAIN, OutputSchema
from rl_empathy.types import Message, Reference, Row


def make_row(row_id: str, post: str = "My boss yells at me.", references: tuple[str, ...] = ()) -> Row:
    return Row(
        id=row_id,
        messages=(Message(role="user", content=post),),
        references=tuple(Reference(text=text) for text in references),
    )


def make_completion(row_id: str = "p", text: str = "", **fields) -> ScoredCompletion:
    return ScoredCompletion(
        **{"prompt_id": row_id, "text": text, "finish_reason": "stop", "tokens": 3, **fields}
    )


def rendered(answer: str, trace: str = "They are upset.") -> str:
    spans = {"L1": trace, "L2": f"So {trace}", "L3": f"And {trace}", "L4": f"But {trace}"}
    return CHAIN_OF_EMPATHY.render({**spans, "answer": answer})


def measured(
    rows: list[Row], completions: list[ScoredCompletion], schema: OutputSchema = CHAIN_OF_EMPATHY
) -> tuple[dict, dict]:
    by_row = {row.id: [one for one in completions if one.prompt_id == row.id] for row in rows}
    return values_by_measure(rows, by_row, schema, "en", seed=0)


def test_validity_is_strict_and_errors_count_by_kind() -> None:
    whole = rendered("I hear you.")
    values, _ = measured(
        [make_row("p")],
        [make_completion(text=whole), make_completion(text=whole + " bye"), make_completion(text="hello")],
    )
    assert values["schema/valid_fraction"]["p"] == [1, 0, 0]
    assert values["schema/error/text_outside_fraction"]["p"] == [0, 1, 1]
    assert values["schema/error/missing_fraction"]["p"] == [0, 0, 1]


def test_the_answer_of_an_invalid_completion_is_read_leniently() -> None:
    values, _ = measured(
        [make_row("p", references=("I hear you.",))], [make_completion(text="<answer>I hear you.")]
    )
    assert values["schema/valid_fraction"]["p"] == [0]
    assert values["text/rouge_l"]["p"] == [1]
    assert values["span/answer/length_characters"]["p"] == [len("I hear you.")]


def test_an_absent_answer_is_an_empty_text() -> None:
    values, corpus = measured(
        [make_row("p", references=("I hear you.",))], [make_completion(text="I hear you.")]
    )
    assert values["text/rouge_l"]["p"] == values["text/bleu"]["p"] == [0]
    assert values["span/answer/present_fraction"]["p"] == [0]
    assert corpus == {"text/bleu_corpus": 0}
    for undefined in ("text/copy_fraction", "span/answer/length_characters", "text/distinct_1"):
        assert undefined not in values


def test_an_empty_completion_is_measured() -> None:
    values, _ = measured([make_row("p")], [make_completion(text="", tokens=0, finish_reason="length")])
    assert values["rollout/completion_length_tokens"]["p"] == [0]
    assert values["rollout/truncated_fraction"]["p"] == [1]


def test_rows_without_references_have_no_rouge_and_bleu() -> None:
    values, corpus = measured([make_row("p")], [make_completion(text=rendered("I hear you."))])
    assert "text/rouge_l" not in values
    assert "text/bleu" not in values
    assert "text/bleu_corpus" not in corpus


def test_a_failed_reward_is_left_out_and_is_not_zero() -> None:
    values, _ = measured(
        [make_row("p")],
        [
            make_completion(rewards={"format": 1.0, "answer": 0.5}, reward=1.5, similarity_to_post=0.25),
            make_completion(rewards={"format": 1.0, "answer": None}),
        ],
    )
    assert values["reward/format/mean"]["p"] == [1, 1]
    assert values["reward/answer/mean"]["p"] == [0.5]
    assert values["reward/mean"]["p"] == [1.5]
    assert values["text/similarity_to_post"]["p"] == [0.25]


def test_distinct_is_one_value_a_prompt_over_all_its_answers() -> None:
    values, corpus = measured(
        [make_row("p"), make_row("q")],
        [
            make_completion("p", rendered("so sad")),
            make_completion("p", rendered("so sad")),
            make_completion("q", rendered("so hard")),
        ],
    )
    assert values["text/distinct_1"] == {"p": [0.5], "q": [1]}  # so sad so sad; so hard
    assert corpus["text/distinct_1_corpus"] == 0.5  # so, sad, hard of six words
    assert corpus["text/distinct_2_corpus"] == pytest.approx(2 / 3)


def test_the_copied_fraction_is_that_of_the_answer_from_the_whole_conversation() -> None:
    values, _ = measured(
        [make_row("p")], [make_completion(text=rendered("my boss yells at me too", trace="Fear."))]
    )
    # runs of four: my boss yells at, boss yells at me, yells at me too
    assert values["text/copy_fraction"]["p"] == [pytest.approx(2 / 3)]


def test_grounding_reads_the_trace_and_not_the_answer() -> None:
    rows = [make_row("p", "My boss yells."), make_row("q", "My dog died.")]
    values, _ = measured(
        rows,
        [
            make_completion("p", rendered("dog", trace="boss")),
            make_completion("q", rendered("dog", trace="boss")),
            make_completion("q", "no trace, but a dog"),
        ],
    )
    assert values["trace/grounded_fraction"] == {"p": [1], "q": [0, 0]}


def test_one_row_has_no_shuffled_post_and_a_plain_schema_no_trace() -> None:
    assert "trace/grounded_fraction" not in measured([make_row("p")], [make_completion()])[0]
    rows = [make_row("p"), make_row("q", "My dog died.")]
    assert "trace/grounded_fraction" not in measured(rows, [make_completion()], PLAIN)[0]


@pytest.mark.parametrize("count", [2, 3, 17])
def test_shuffled_posts_are_never_the_own_and_each_is_used_once(count: int) -> None:
    rows = [make_row(str(i), f"post {i}") for i in range(count)]
    posts = shuffled_posts(rows, seed=4)
    assert all(posts[row.id] != row.post for row in rows)
    assert sorted(posts.values()) == sorted(row.post for row in rows)
    assert posts == shuffled_posts(rows, seed=4)


def test_no_rows_give_no_measures() -> None:
    values, corpus = measured([], [])
    assert not any(values.values())
    assert corpus == {}


def test_completions_of_no_row_and_rows_of_one_id_are_refused() -> None:
    with pytest.raises(DataError, match="'x', which is none of the 1"):
        values_by_measure([make_row("p")], {"x": [make_completion("x")]}, PLAIN, "en", seed=0)
    with pytest.raises(DataError, match="2 held-out rows share 1 ids"):
        values_by_measure([make_row("p"), make_row("p")], {}, PLAIN, "en", seed=0)


def test_the_fingerprint_of_the_rows_changes_with_any_text_and_with_the_order() -> None:
    rows = [make_row("p", references=("a",)), make_row("q")]
    others = [
        [rows[1], rows[0]],
        [make_row("p", references=("b",)), rows[1]],
        [make_row("p", "other", references=("a",)), rows[1]],
        [replace(rows[0], id="r"), rows[1]],
        rows[:1],
    ]
    assert len({rows_sha256(rows), *map(rows_sha256, others)}) == 6
    assert rows_sha256(rows) == rows_sha256([make_row("p", references=("a",)), make_row("q")])
