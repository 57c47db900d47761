"""Each way of echoing a post, by example."""

import random
from collections.abc import Callable

import pytest

from rl_empathy.algorithms.copying import copied_fraction
from rl_empathy.data.echo_phrases import PROBES, TRAINING, Phrases
from rl_empathy.data.echoes import (
    ECHO_KINDS,
    EchoKind,
    content_words,
    negative_echo,
    probe_echo,
    turned_round,
)
from rl_empathy.data.text import folded

POST = "I lost my job last week. My wife does not know it yet. What shall I do?"
ZH_POST = "我上周失业了。我的妻子还不知道。我该怎么办？"


def probe(kind: EchoKind, post: str = POST) -> str:
    return probe_echo(kind, post, random.Random(0))


def drawn(kind: EchoKind, post: str = POST) -> list[str]:
    """As training draws it."""
    return [negative_echo(kind, post, random.Random(seed)) for seed in range(50)]


def test_a_negative_of_each_kind_is_an_echo_of_that_kind() -> None:
    assert all("What shall I do?" in text and text[0] in "IMW" for text in drawn("copy"))
    assert all(text[0] in "“\"'「‘" for text in drawn("quote"))
    assert all("you lost your job last week." in text for text in drawn("rewritten"))
    for text in drawn("shuffled"):
        assert copied_fraction(text, POST) > 0
        assert "My wife does not know it yet." not in text


def test_comfort_that_training_draws_does_not_depend_on_the_post() -> None:
    assert drawn("warmth") == drawn("warmth", "Another post altogether.")
    assert all(any(phrase in text for phrase in TRAINING["en"].warmth) for text in drawn("warmth"))


def test_questions_that_training_draws_throw_the_post_back() -> None:
    assert all(text.endswith("?") for text in drawn("question"))
    assert any(copied_fraction(text, POST) > 0.3 for text in drawn("question"))


def test_a_copy_is_the_post() -> None:
    assert probe("copy") == POST


def test_a_quote_is_the_beginning_in_quotation_marks() -> None:
    assert (
        probe("quote", " ".join(str(i) for i in range(99))) == '"' + " ".join(str(i) for i in range(40)) + '"'
    )
    assert probe("quote", "好" * 99) == '"' + "好" * 60 + '"'


def test_shuffled_words_are_the_content_words_of_the_post() -> None:
    assert content_words(POST) == ["lost", "job", "last", "week", "wife", "know", "yet", "shall"]
    assert sorted(probe("shuffled").split()) == sorted(content_words(POST))
    assert sorted(probe("shuffled", ZH_POST)) == sorted("".join(content_words(ZH_POST)))


def test_a_rewritten_post_speaks_of_the_second_person_sentence_by_sentence() -> None:
    rewritten = probe("rewritten")
    for part in ("you lost your job last week.", "your wife does not know it yet.", "what shall you do?"):
        assert part in rewritten
    assert "你的妻子还不知道。" in probe("rewritten", ZH_POST)


def test_the_first_person_is_turned_round() -> None:
    assert turned_round("I am sad, I've lost my dog and I was mine.") == (
        "you are sad, you've lost your dog and you were yours."
    )
    assert turned_round("我们很累，我也是。") == "你们很累，你也是。"


def test_comfort_does_not_depend_on_the_post() -> None:
    assert probe("warmth") == probe("warmth", "Another post altogether.")
    assert folded(probe("warmth", ZH_POST)) in folded("".join(PROBES["zh"].warmth)) or probe(
        "warmth", ZH_POST
    )


def test_questions_end_with_question_marks_and_stand_for_the_post() -> None:
    for post, mark in ((POST, "?"), (ZH_POST, "？")):
        questions = [probe_echo("question", post, random.Random(seed)) for seed in range(20)]
        assert all(text.endswith(mark) for text in questions)
        assert any(copied_fraction(text, post) > 0.3 for text in questions)


@pytest.mark.parametrize("kind", ECHO_KINDS)
@pytest.mark.parametrize("make", [negative_echo, probe_echo])
@pytest.mark.parametrize("post", [POST, ZH_POST, "Why?", "唉", "…"])
def test_every_post_has_every_echo_and_the_seed_decides(
    kind: EchoKind, make: Callable[[EchoKind, str, random.Random], str], post: str
) -> None:
    assert make(kind, post, random.Random(1)).strip()
    assert make(kind, post, random.Random(1)) == make(kind, post, random.Random(1))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_asks_with_phrases_that_training_does_not_see(language: str) -> None:
    def sentences_of(phrases: Phrases) -> set[str]:
        return {folded(text) for text in (*phrases.warmth, *phrases.questions, *phrases.restatements)}

    assert not sentences_of(TRAINING[language]) & sentences_of(PROBES[language])
    post = POST if language == "en" else ZH_POST
    assert any(phrase in probe("warmth", post) for phrase in PROBES[language].warmth)
    first = probe("rewritten", post).partition("." if language == "en" else "。")[0].lower()
    begun = [template.partition("{")[0] for template in PROBES[language].restatements]
    assert any(first.startswith(words.lower()) for words in begun if words)
