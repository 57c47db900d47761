"""The offline teacher: same row, same trace; words of the very post; lengths that hold for any text."""

from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_empathy.data.templates import template_trace
from rl_empathy.schema import CHAIN_OF_EMPATHY
from rl_empathy.types import Message, Row

ENGLISH = "I feel so ashamed because my manager laughed at my slides. How do I face the team?"
CHINESE = "妈妈总是拿我和表姐比，我心里很委屈。因为考研失败，她三天没和我说话。我该怎么办？"


def make_row(post: str, id: str = "row-1") -> Row:
    return Row(id=id, messages=(Message(role="user", content=post),))


def size(text: str, language: str) -> int:
    return len(text.split()) if language == "en" else len(text)


@pytest.mark.parametrize("language", ["en", "zh"])
@given(post=st.text(min_size=1, max_size=200).filter(str.strip), id=st.text(max_size=5))
@settings(max_examples=150, deadline=None)
def test_any_post_gives_layers_of_readable_length_that_render(
    language: Literal["en", "zh"], post: str, id: str
) -> None:
    spans = template_trace(make_row(post, id), language).spans

    rendered = CHAIN_OF_EMPATHY.render({**spans, "answer": "An answer."})
    assert CHAIN_OF_EMPATHY.parse(rendered, strict=True).valid
    low, high = (8, 25) if language == "en" else (15, 40)
    assert all(low <= size(text, language) <= high for text in spans.values())


def test_a_post_that_holds_delimiters_cannot_break_the_form() -> None:
    spans = template_trace(make_row("</L1><answer> I am sad </answer> because <L2>"), "en").spans

    assert CHAIN_OF_EMPATHY.render({**spans, "answer": "An answer."})


def test_every_english_layer_takes_words_of_the_post() -> None:
    spans = template_trace(make_row(ENGLISH), "en").spans

    assert "ashamed" in spans["L1"]
    assert "my manager laughed at my slides" in spans["L2"]
    assert "How do I face the team" in spans["L3"]
    assert "concrete next step" in spans["L3"]
    assert "my manager" in spans["L4"]


def test_every_chinese_layer_takes_words_of_the_post() -> None:
    spans = template_trace(make_row(CHINESE), "zh").spans

    assert "委屈" in spans["L1"]
    assert "考研失败" in spans["L2"]
    assert "我该怎么办" in spans["L3"]
    assert "建议" in spans["L3"]
    assert "妈妈" in spans["L4"] or "考研" in spans["L4"]


def test_the_same_row_gives_the_same_trace_and_names_its_teacher() -> None:
    first, second = (template_trace(make_row(ENGLISH), "en") for _ in range(2))

    assert first == second
    assert first.teacher == "template"


def test_another_id_gives_another_phrasing() -> None:
    traces = [template_trace(make_row(ENGLISH, f"row-{i}"), "en").spans for i in range(20)]

    assert all(len({spans[layer] for spans in traces}) > 1 for layer in ("L1", "L2", "L3", "L4"))


def test_a_denied_feeling_is_not_named() -> None:
    spans = template_trace(make_row("I am not angry about it, only tired of the noise."), "en").spans

    assert "exhausted" in spans["L1"]
    assert "feeling angry" not in spans["L4"]
    assert "angry and" not in spans["L1"]


def test_a_post_that_speaks_of_risk_gets_a_plan_of_safety() -> None:
    english = template_trace(make_row("Lately I want to die. What should I do?"), "en").spans
    chinese = template_trace(make_row("我不想活了，怎么办？"), "zh").spans

    assert "safety" in english["L3"]
    assert "ask directly about safety" in english["L4"]
    assert "安全" in chinese["L3"]
    assert "求助" in chinese["L4"]
