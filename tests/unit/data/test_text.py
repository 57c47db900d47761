"""Plain ASCII takes a shorter way to the same comparison."""

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from rl_empathy.data.risk import speaks_of_risk
from rl_empathy.data.text import folded
from rl_empathy.schema.content import content_errors

ascii_text = st.text(st.characters(max_codepoint=127))


@given(ascii_text)
def test_ascii_is_folded_by_the_rule_for_any_text(text: str) -> None:
    plain = unicodedata.normalize("NFKC", text).casefold()
    assert folded(text) == (re.sub(r"[\W_]+", "", plain) or plain.strip())


@given(ascii_text, ascii_text)
def test_ascii_spans_say_the_same_as_they_do_with_an_accent_on_a_number(one: str, other: str) -> None:
    """A superscript two is no letter, and makes a text that is not ASCII."""

    def repeated(*texts: str) -> bool:
        return "repeated" in content_errors(dict(zip("ab", texts, strict=True)), {"a": 0, "b": 0}, ())

    one, other = f"{one} so", f"{other} so"
    assert repeated(one, other) == repeated(f"{one}²", f"{other}²")


@given(st.sampled_from(["I want to die", "I want to\tDIE now", "i WANT   to die."]), ascii_text)
def test_risk_is_found_in_ascii_and_beside_other_characters(said: str, around: str) -> None:
    assert speaks_of_risk(f"{around} . {said} . {around}") is not None
    assert speaks_of_risk(f"{around} . {said} . {around} é") is not None
