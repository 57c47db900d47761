"""Triplets: what may be a negative, and that a draw depends on its seed alone."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from rl_empathy.algorithms.copying import copied_fraction
from rl_empathy.config.sections import DataConfig, RewardModelingConfig
from rl_empathy.data.corruptions import CORRUPTIONS, Corruption, sentences
from rl_empathy.data.echoes import ECHO_KINDS
from rl_empathy.data.loading import load_data
from rl_empathy.data.text import folded
from rl_empathy.data.triplets import (
    KINDS,
    TripletSource,
    calibration_split,
    draw_triplets,
    good_references,
    lexical_neighbours,
)
from rl_empathy.errors import ConfigError, DataError
from rl_empathy.types import Message, Reference, Row

SHARES = {"hard": 0.5, "easy": 0.25, "corrupted": 0.25}


def make_row(name: str, *, topic: str = "", answers: Sequence[str] = (), votes: Sequence[int] = ()) -> Row:
    texts = answers or (f"Reply one to {name}. It has two sentences.",)
    return Row(
        id=name,
        messages=(Message(role="user", content=f"Post about {name}."),),
        references=tuple(
            Reference(text=t, votes=v) for t, v in zip(texts, votes or [None] * len(texts), strict=True)
        ),
        metadata={"topic": topic} if topic else {},
    )


ROWS = [
    make_row(f"{topic}{number}", topic=topic) for topic in ("work", "grief", "family") for number in range(4)
]


def only(kind: str) -> dict[str, float]:
    return {kind: 1.0}


def topic_of(text: str) -> str:
    return next(topic for topic in ("work", "grief", "family") if topic in text)


def test_hard_negatives_answer_another_prompt_of_the_same_topic() -> None:
    for triplet in draw_triplets(ROWS, only("hard"), 50, "0"):
        assert topic_of(triplet.negative) == topic_of(triplet.question)
        assert triplet.negative != triplet.positive


def test_easy_negatives_answer_a_prompt_of_another_topic() -> None:
    for triplet in draw_triplets(ROWS, only("easy"), 50, "0"):
        assert topic_of(triplet.negative) != topic_of(triplet.question)


def test_shares_are_met_exactly_where_they_give_whole_numbers() -> None:
    kinds = Counter(triplet.kind for triplet in draw_triplets(ROWS, SHARES, 16, "0"))
    assert kinds == {"hard": 8, "easy": 4, "corrupted": 4}


def test_a_small_share_comes_in_as_many_batches_as_it_says() -> None:
    source = TripletSource(ROWS, {"hard": 0.85, "copy": 0.05, "quote": 0.05, "warmth": 0.05})
    kinds = Counter(t.kind for step in range(400) for t in source.draw(8, seed=f"0:{step}"))
    for kind in ("copy", "quote", "warmth"):  # 400 x 8 x 0.05 = 160, with a deviation of 10 (binomial: 9.8)
        assert 120 < kinds[kind] < 200


def test_every_kind_of_negative_has_a_share_by_default() -> None:
    shares = RewardModelingConfig().negatives
    assert {kind for kind, share in shares.items() if share > 0} == set(KINDS)


def test_every_kind_of_echo_is_a_negative_of_its_own() -> None:
    for kind in ECHO_KINDS:
        (triplet,) = draw_triplets(ROWS, only(kind), 1, "0")
        assert triplet.kind == kind
    for kind in ("copy", "quote", "shuffled", "rewritten"):
        (triplet,) = draw_triplets(ROWS, only(kind), 1, "0")
        assert copied_fraction(triplet.negative, triplet.question) > 0


def test_probes_have_the_good_references_and_one_echo_of_each_kind() -> None:
    rows = [
        make_row("work", topic="work", answers=["best", "poor"], votes=[8, 3]),
        make_row("grief", topic="grief", answers=["another topic's answer"]),
    ]
    post, references, echoes = TripletSource(rows, SHARES).probes(1, seed="0")[0]
    assert (post, references) == ("Post about work.", ["best"])
    assert set(echoes) == {*ECHO_KINDS, "another_topic"}
    assert echoes["copy"] == post
    assert echoes["another_topic"] == "another topic's answer"


def test_calibration_prompts_are_a_share_and_not_trained_on() -> None:
    rows = [make_row(f"{number}") for number in range(20)]
    train, calibration = calibration_split(rows, 0.15, seed=0)
    assert (len(train), len(calibration)) == (17, 3)
    assert not {row.post for row in train} & {row.post for row in calibration}
    assert {row.id for row in (*train, *calibration)} == {row.id for row in rows}


def test_the_calibration_split_depends_on_the_seed_and_not_on_the_order() -> None:
    rows = [make_row(f"{number}") for number in range(20)]

    def chosen(rows: Sequence[Row], seed: int) -> set[str]:
        return {row.id for row in calibration_split(rows, 0.5, seed=seed)[1]}

    assert chosen(rows, 0) == chosen(rows[::-1], 0) != chosen(rows, 1)


def test_rows_without_a_reference_are_on_no_side_of_the_calibration_split() -> None:
    silent = Row(id="silent", messages=(Message(role="user", content="…"),))
    train, calibration = calibration_split([silent, *ROWS[:4]], 0.01, seed=0)
    assert (len(train), len(calibration)) == (2, 2)  # two at least
    with pytest.raises(DataError, match="got 3 of 4 rows"):
        calibration_split([silent, *ROWS[:3]], 0.5, seed=0)


def test_a_batch_holds_no_prompt_twice() -> None:
    questions = [triplet.question for triplet in draw_triplets(ROWS, SHARES, len(ROWS), "0")]
    assert len(set(questions)) == len(ROWS)


def test_a_draw_depends_on_its_seed_alone() -> None:
    source = TripletSource(ROWS, SHARES)
    first = source.draw(8, seed="0:1")
    source.draw(8, seed="0:2")
    assert source.draw(8, seed="0:1") == first
    assert TripletSource(ROWS, SHARES).draw(8, seed="0:1") == first
    assert source.draw(8, seed="0:2") != first


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_negative_is_a_reference_of_its_own_prompt(language: str) -> None:
    rows = load_data(DataConfig(language=language, held_out_prompts=8), seed=0).train  # type: ignore[arg-type]
    own = {row.post: {folded(r.text) for r in row.references} for row in rows}
    triplets = draw_triplets(rows, SHARES, 400, "0")
    assert {triplet.kind for triplet in triplets} == set(SHARES)
    for triplet in triplets:
        assert folded(triplet.positive) in own[triplet.question]
        assert folded(triplet.negative) not in own[triplet.question]


def test_without_topics_hard_negatives_come_from_the_lexically_nearest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    near = [
        make_row(f"my noisy neighbour {i}", answers=[f"Neighbour answer {i}, to you."]) for i in range(12)
    ]
    far = [make_row(f"XYZQW {i * 1111}", answers=[f"Distant answer {i}, to you."]) for i in range(12)]
    for triplet in draw_triplets(near + far, only("hard"), 24, "0"):
        assert triplet.negative.startswith("Neighbour" if "noisy" in triplet.question else "Distant")
    assert "24 of 24 prompts share no topic" in caplog.text


def test_lexical_neighbours_leave_out_the_text_itself() -> None:
    nearest = lexical_neighbours(["a cat sat", "a cat sits", "quantum"], [0, 2])
    assert nearest[0][0] == 1
    assert 0 not in nearest[0]
    assert 2 not in nearest[2]


@pytest.mark.parametrize(
    ("votes", "good"),
    [
        ([-2, -9], [0]),
        ([-9, -2, -2], [1, 2]),
        ([0, -40], [0]),
        ([-1, 0, 0], [1, 2]),
        ([4, 2, 1, -8], [0, 1]),
        ([10**400, 5 * 10**399, 1], [0, 1]),
    ],
)
def test_the_best_reference_counts_whatever_its_votes_are(votes: list[int], good: list[int]) -> None:
    row = make_row("work", answers=[str(i) for i in range(len(votes))], votes=votes)

    assert good_references(row) == [str(i) for i in good]


def test_positives_have_at_least_half_the_votes_of_the_best() -> None:
    row = make_row("work", answers=["best", "half", "poor"], votes=[8, 4, 3])
    assert good_references(row) == ["best", "half"]


def test_every_reference_is_a_positive_where_nobody_voted() -> None:
    assert good_references(make_row("work", answers=["one", "two"])) == ["one", "two"]


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize(
    ("answer", "other"),
    [
        ("I hear you. That must hurt. What helps?", "Try to rest. Walk a little."),
        ("我听到你的难过。这一定很痛。什么能帮到你？", "试着休息一下。散散步。"),
    ],
)
def test_a_corrupted_answer_is_another_text_made_of_given_words(
    corruption: Corruption, answer: str, other: str
) -> None:
    question = "我很难过。" if "我" in answer else "I am sad. My dog died."
    spoilt = corruption(answer, question, other, random.Random(0))
    assert spoilt
    assert folded(spoilt) != folded(answer)
    assert set(spoilt) <= set(answer + other + question + " ")


def test_sentences_split_in_both_languages() -> None:
    assert sentences("One. Two? Three") == ["One.", "Two?", "Three"]
    assert sentences("一。二？三") == ["一。", "二？", "三"]


def test_one_prompt_with_a_reference_is_too_few() -> None:
    with pytest.raises(DataError, match="got 1 of 1 rows"):
        TripletSource(ROWS[:1], SHARES)


def test_shares_of_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match="every share is 0"):
        TripletSource(ROWS, {"hard": 0.0})


def test_references_that_are_all_the_same_text_are_refused_by_row() -> None:
    rows = [make_row(name, topic="work", answers=["The same text."]) for name in ("one", "two")]
    with pytest.raises(DataError, match="no hard negative differs"):
        draw_triplets(rows, only("hard"), 2, "0")


@pytest.mark.parametrize("nothing", ["nan", "NaN", "<NA>", "None", " null "])
def test_a_topic_that_stands_for_nothing_makes_no_hard_negatives(nothing: str) -> None:
    near = [
        make_row(f"my noisy neighbour {i}", topic=nothing, answers=[f"Neighbour answer {i}, to you."])
        for i in range(12)
    ]
    far = [
        make_row(f"XYZQW {i * 1111}", topic=nothing, answers=[f"Distant answer {i}, to you."])
        for i in range(12)
    ]
    for triplet in draw_triplets(near + far, only("hard"), 24, "0"):
        assert triplet.negative.startswith("Neighbour" if "noisy" in triplet.question else "Distant")


def test_a_triplet_knows_every_reference_of_its_prompt() -> None:
    rows = [make_row("work", answers=["One.", "Two!"], votes=[9, 0]), make_row("grief", answers=["Other."])]
    triplet = next(t for t in draw_triplets(rows, only("easy"), 2, "0") if "work" in t.question)
    assert [triplet.is_right(text) for text in ("one", "Two", "Other.")] == [True, True, False]
