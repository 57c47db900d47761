"""What the bundled set promises, per language."""

from collections import Counter
from typing import Literal

import pytest

from rl_empathy.data.loading import read_source
from rl_empathy.data.risk import speaks_of_risk
from rl_empathy.data.sources import BUNDLED, locate
from rl_empathy.data.text import folded
from rl_empathy.schema import CHAIN_OF_EMPATHY
from rl_empathy.types import Row

Language = Literal["en", "zh"]
LIMITS = {
    "en": {"post": (80, 300), "good": (38, 70), "poor": (8, 32), "layer": (7, 20)},
    "zh": {"post": (120, 500), "good": (60, 120), "poor": (12, 45), "layer": (14, 36)},
}


@pytest.fixture(params=["en", "zh"])
def language(request: pytest.FixtureRequest) -> Language:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def rows(language: Language) -> list[Row]:
    return read_source(locate(None, language=language), "rows", on_bad_row="stop")[0]


def test_there_are_enough_rows_on_twelve_topics_in_equal_parts(rows: list[Row]) -> None:
    topics = Counter(row.topic for row in rows)

    assert len(rows) >= 60
    assert len(topics) == 12
    assert len(set(topics.values())) == 1


def test_any_twelve_rows_in_a_row_hold_all_topics(rows: list[Row]) -> None:
    assert all(len({row.topic for row in rows[i : i + 12]}) == 12 for i in range(len(rows) - 11))


def test_no_post_and_no_good_reply_is_there_twice(rows: list[Row]) -> None:
    for texts in ([row.post for row in rows], [row.references[0].text for row in rows]):
        assert len({folded(text) for text in texts}) == len(rows)


def test_texts_have_the_promised_lengths(rows: list[Row], language: Language) -> None:
    def is_within(text: str, kind: str) -> bool:
        low, high = LIMITS[language][kind]
        return low <= (len(text.split()) if language == "en" else len(text)) <= high

    for row in rows:
        assert row.trace is not None
        assert is_within(row.post, "post"), row.id
        assert is_within(row.references[0].text, "good"), row.id
        assert is_within(row.references[1].text, "poor"), row.id
        assert all(is_within(text, "layer") for text in row.trace.spans.values()), row.id


def test_the_better_reply_comes_first(rows: list[Row]) -> None:
    assert all((row.references[0].votes or 0) > (row.references[1].votes or 0) for row in rows)


def test_every_trace_is_by_an_author_and_renders_strictly(rows: list[Row]) -> None:
    for row in rows:
        assert row.trace is not None
        text = CHAIN_OF_EMPATHY.render({**row.trace.spans, "answer": row.references[0].text})
        assert CHAIN_OF_EMPATHY.parse(text, strict=True).valid, row.id
        assert row.trace.teacher == "author"


def test_every_row_says_that_it_is_synthetic_and_none_speaks_of_risk(
    rows: list[Row], language: Language
) -> None:
    assert all(row.metadata["synthetic"] == "true" and row.metadata["language"] == language for row in rows)
    assert [row.id for row in rows if speaks_of_risk(row.post)] == []


def test_the_note_beside_the_set_says_what_it_is() -> None:
    note = (BUNDLED / "README.md").read_text()

    assert all(words in note for words in ("Synthetic", "Apache-2.0", "Not for clinical use"))
