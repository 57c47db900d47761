"""What a run trains on: split by prompt, each prompt once, screened, every loss counted."""

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rl_empathy.config.sections import DataConfig
from rl_empathy.data.loading import COUNTS, DataSet, load_data
from rl_empathy.data.risk import SAFE_REPLY
from rl_empathy.data.text import folded
from rl_empathy.errors import DataError

REPLY = "That sounds like a great deal to carry."


def make_row(id: str, prompt: str, *replies: tuple[str, int], **fields: object) -> dict[str, object]:
    references = [{"text": text, "votes": votes} for text, votes in replies or ((REPLY, 1),)]
    return {"id": id, "prompt": prompt, "references": references, **fields}


def load(folder: Path, rows: list[dict[str, object]], *, seed: int = 0, **config: object) -> DataSet:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_data(
        DataConfig.model_validate({"train": str(path), "held_out_prompts": 1, **config}), seed=seed
    )


def many(count: int) -> list[dict[str, object]]:
    return [make_row(f"r{i}", f"Post number {i}") for i in range(count)]


def by_id(data: DataSet) -> Mapping[str, object]:
    return {row.id: row for row in data.train + data.held_out}


@given(order=st.permutations(range(12)), seed=st.integers(0, 5), wanted=st.integers(1, 6))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_split_depends_on_seed_and_prompts_not_on_the_order_of_rows(
    tmp_path: Path, order: list[int], seed: int, wanted: int
) -> None:
    rows = many(12)

    straight = load(tmp_path, rows, seed=seed, held_out_prompts=wanted)
    shuffled = load(tmp_path, [rows[i] for i in order], seed=seed, held_out_prompts=wanted)

    assert (straight.train, straight.held_out) == (shuffled.train, shuffled.held_out)
    assert (len(straight.held_out), len(straight.train)) == (wanted, 12 - wanted)


def test_another_seed_gives_another_split(tmp_path: Path) -> None:
    sides = [load(tmp_path, many(20), seed=seed, held_out_prompts=5).held_out for seed in range(4)]

    assert len({frozenset(row.id for row in side) for side in sides}) == 4


def test_a_prompt_that_differs_in_case_and_punctuation_is_the_same_prompt(tmp_path: Path) -> None:
    rows = [
        *many(6),
        make_row("a", "I can't sleep!", (REPLY, 1)),
        make_row("b", "i can’t  SLEEP", ("Rest is hard to find.", 5)),
    ]

    data = load(tmp_path, rows)

    assert data.counts["duplicates"] == 1
    merged = by_id(data)["a"]
    assert [r.text for r in merged.references] == ["Rest is hard to find.", REPLY]  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(5))
def test_conversations_with_the_same_first_post_stay_on_one_side(tmp_path: Path, seed: int) -> None:
    deeper: list[dict[str, object]] = [
        {
            "id": f"deep{i}",
            "messages": [
                {"role": "user", "content": f"Post number {i}"},
                {"role": "assistant", "content": "Tell me more."},
                {"role": "user", "content": "Thanks."},
            ],
        }
        for i in range(10)
    ]

    data = load(tmp_path, many(10) + deeper, seed=seed, held_out_prompts=8)

    first_posts = [{folded(row.messages[0].content) for row in side} for side in (data.train, data.held_out)]
    assert len(data.held_out) == 8
    assert not first_posts[0] & first_posts[1]


def dialogue(id: str, *texts: str) -> dict[str, object]:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"id": id, "messages": messages, "references": [{"text": REPLY}]}


@pytest.mark.parametrize("alone", [False, True])
def test_dialogues_that_begin_alike_are_split_by_the_whole_conversation(tmp_path: Path, alone: bool) -> None:
    rows = [dialogue(f"d{i}", "Hello", f"Hi, I am {i % 2}.", f"My story is number {i}") for i in range(12)]
    rows += [
        dialogue(f"e{i}", "Hello", f"Hi, I am {i % 2}.", f"My story is number {i}", "I see.", "Yes.")
        for i in range(3)
    ]
    rows += [make_row("hello", "Hello")] if alone else []

    data = load(tmp_path, rows, held_out_prompts=5)

    assert len(data.held_out) == 5
    sides = [{row.id for row in side} for side in (data.train, data.held_out)]
    for i in range(3):  # a dialogue and its continuation
        assert any({f"d{i}", f"e{i}"} <= side for side in sides)


def test_a_long_post_is_on_one_side_with_all_that_goes_on_from_it(tmp_path: Path) -> None:
    post = "My mother died in spring, and since then I cannot talk to anybody at home about it."
    threads = [dialogue(f"t{i}", post, f"What is it like, {i}?", f"Empty {i}") for i in range(2)]

    for seed in range(8):
        data = load(tmp_path, [*many(8), make_row("post", post), *threads], seed=seed, held_out_prompts=4)
        sides = [{row.id for row in side} & {"post", "t0", "t1"} for side in (data.train, data.held_out)]
        assert set() in sides


def test_equal_words_in_other_turns_are_another_conversation(tmp_path: Path) -> None:
    rows = [*many(5), make_row("a", "I see. Go on. Yes."), dialogue("b", "I see.", "Go on.", "Yes.")]

    assert load(tmp_path, rows).counts["duplicates"] == 0


def test_the_digest_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    for number in range(4):
        turns = [
            {"role": "client", "content": f"我很累{number}"},
            {"role": "counselor", "content": "怎么了？" * 6},
        ]
        (tmp_path / f"{number}.json").write_text(json.dumps(turns))
    config = DataConfig.model_validate(
        {"train": str(tmp_path), "format": "smile", "language": "zh", "held_out_prompts": 1}
    )

    before = load_data(config, seed=0)
    (tmp_path / "3.json").write_text(json.dumps(turns).replace("3", "4"))

    assert len(before.train + before.held_out) == 4
    assert load_data(config, seed=0).sha256 != before.sha256


def test_skipped_rows_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(tmp_path, [*many(5), make_row("bad", "")], on_bad_row="skip")

    assert "1 bad row(s)" in caplog.text
    assert "rows.jsonl:6: prompt" in caplog.text


def test_a_reference_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    row = make_row(
        "r",
        "Post one",
        (REPLY, 3),
        (f"  {REPLY.upper()}!", 2),
        ("Another reply, as long as one has to be.", 1),
    )

    references = by_id(load(tmp_path, [row, *many(3)]))["r"].references

    assert [reference.text for reference in references] == [REPLY, "Another reply, as long as one has to be."]


def test_a_trace_goes_with_the_reference_that_it_leads_to(tmp_path: Path) -> None:
    trace = {"teacher": "author", "spans": {"L1": "a", "L2": "b", "L3": "c", "L4": "d"}}
    rows = [
        make_row("best", "A post", (REPLY, 9), trace=trace),
        make_row("worse", "a post", ("Cheer up, it will pass soon.", 1)),
        make_row("short", "Another post", ("Hm.", 9), (REPLY, 1), trace=trace),
    ]

    rows_by_id = by_id(load(tmp_path, rows + many(4)))

    assert rows_by_id["best"].trace is not None  # type: ignore[attr-defined]
    assert rows_by_id["short"].trace is None  # type: ignore[attr-defined]


def test_short_long_and_surplus_references_are_left_out_and_counted(tmp_path: Path) -> None:
    replies = [(f"{REPLY} {votes}", votes) for votes in (4, 3, 2, 1)]
    lengthy = (f"{REPLY} {'And so on. ' * 20}", 8)
    rows = [
        make_row("a", "A post", *replies, ("Hm.", 9), lengthy),
        make_row("b", "B post", ("No.", 1)),
        *many(4),
    ]

    data = load(tmp_path, rows, max_references=3, max_answer_characters=200)

    names = ("short_references", "long_references", "extra_references", "rows_without_reference")
    assert [data.counts[name] for name in names] == [2, 1, 1, 1]
    assert [r.votes for r in by_id(data)["a"].references] == [4, 3, 2]  # type: ignore[attr-defined]
    assert by_id(data)["b"].references == ()  # type: ignore[attr-defined]


def test_lengths_that_leave_no_answer_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"max_answer_characters \(50\) is less than min_answer_characters \(80\)"
    ):
        DataConfig(min_answer_characters=80, max_answer_characters=50)


@pytest.mark.parametrize(
    ("on_risk", "count"),
    [("keep", "risk_kept"), ("exclude", "risk_excluded"), ("template", "risk_templated")],
)
def test_rows_that_speak_of_risk_are_treated_as_asked_and_counted(
    tmp_path: Path, on_risk: str, count: str
) -> None:
    rows = [make_row("risk", "I want to die.", ("Have you tried yoga, perhaps?", 3)), *many(5)]

    data = load(tmp_path, rows, on_risk=on_risk)

    assert {name: n for name, n in data.counts.items() if name.startswith("risk") and n} == {count: 1}
    texts = [r.text for row in data.train + data.held_out if row.id == "risk" for r in row.references]
    assert (
        texts
        == {"keep": ["Have you tried yoga, perhaps?"], "exclude": [], "template": [SAFE_REPLY["en"]]}[on_risk]
    )


def test_a_templated_row_has_a_trace_about_safety(tmp_path: Path) -> None:
    data = load(tmp_path, [make_row("risk", "I want to die."), *many(5)], on_risk="template")

    trace = by_id(data)["risk"].trace  # type: ignore[attr-defined]
    assert "want to die" in trace.spans["L4"]
    assert "ask directly about safety" in trace.spans["L4"]


def test_the_counsellors_words_are_not_screened(tmp_path: Path) -> None:
    rows = [make_row("a", "I feel low.", ("If you think of suicide, please call someone.", 1)), *many(5)]

    assert load(tmp_path, rows).counts["risk_excluded"] == 0


def test_a_bad_row_stops_the_run_and_the_first_ten_are_named(tmp_path: Path) -> None:
    rows = many(5) + [make_row(f"bad{i}", "") for i in range(12)]

    with pytest.raises(DataError) as caught:
        load(tmp_path, rows)

    text = str(caught.value)
    assert "12 bad row(s)" in text
    assert "data.on_bad_row: skip" in text
    assert [f"rows.jsonl:{line}: prompt" in text for line in (6, 15, 16)] == [True, True, False]


def test_bad_rows_that_are_skipped_are_counted(tmp_path: Path) -> None:
    data = load(tmp_path, [*many(5), make_row("bad", "")], on_bad_row="skip")

    assert (data.counts["rows_read"], data.counts["bad_rows"]) == (5, 1)
    assert tuple(data.counts) == COUNTS


def test_a_file_of_bad_rows_only_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no row that format rows can read\n.*rows.jsonl:1: prompt"):
        load(tmp_path, [make_row("bad", "")], on_bad_row="skip")


def test_holding_out_more_than_half_is_refused_with_a_number_that_works(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"held_out_prompts \(6\) is more than half of the 10 prompts.*: 2,"):
        load(tmp_path, many(10), held_out_prompts=6)


def test_a_set_in_another_language_than_the_configured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set data\.language: zh"):
        load(tmp_path, many(4), format="smile")


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    data = load(tmp_path, many(4))

    assert data.sha256 == hashlib.sha256((tmp_path / "rows.jsonl").read_bytes()).hexdigest()


def test_without_a_file_the_bundled_set_of_the_language_is_loaded() -> None:
    data = load_data(DataConfig(language="zh", held_out_prompts=12), seed=0)

    assert {row.metadata["language"] for row in data.train} == {"zh"}
    assert data.counts["risk_excluded"] == 0


def test_order_is_drawn_so_that_a_prefix_is_a_fair_sample() -> None:
    topics = [row.topic for row in load_data(DataConfig(), seed=0).train]

    assert len(set(topics[: len(topics) // 2])) == 12


def test_equal_rows_of_a_table_with_ids_are_merged(tmp_path: Path) -> None:
    lines = [{"k": 1, "q": "Why?", "a": REPLY}, {"k": 1, "q": "Why?", "a": "Because it matters to you."}]
    lines += [{"k": i, "q": f"Post {i}", "a": REPLY} for i in range(2, 6)]
    random.Random(0).shuffle(lines)
    columns = {"prompt": "q", "answer": "a", "id": "k"}

    data = load(tmp_path, lines, format="columns", columns=columns)  # type: ignore[arg-type]

    assert (data.counts["rows_read"], data.counts["bad_rows"], data.counts["duplicates"]) == (6, 0, 1)
