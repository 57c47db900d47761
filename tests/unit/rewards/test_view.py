"""What a term may see of a completion, and what it may not."""

from dataclasses import replace

import pytest

from rl_empathy.rewards.view import view_of
from rl_empathy.schema import named_schema
from tests.fakes import make_group

SCHEMA = named_schema("chain_of_empathy")
SPANS = {"L1": "sad", "L2": "alone", "L3": "wants comfort", "L4": "listen", "answer": "I hear you."}
WRITTEN = SCHEMA.render(SPANS)


def view(text, sees):
    group = make_group(size=1)
    group = replace(group, completions=(replace(group.completions[0], text=text),))
    parsed = [SCHEMA.parse(text, strict=True)]
    return view_of(group, parsed, SCHEMA, sees)


@pytest.mark.parametrize(
    ("sees", "spans", "text"),
    [
        ("answer", ["answer"], "I hear you."),
        (("L4", "answer"), ["L4", "answer"], "listen\n\nI hear you."),
        ("all", [*SPANS], WRITTEN),
    ],
)
def test_a_term_sees_the_spans_that_it_may_and_no_others(sees, spans, text):
    (completion,) = view(WRITTEN, sees).completions
    assert completion.spans == {name: SPANS[name] for name in spans}
    assert completion.text == text
    assert completion.keeps_form


def test_a_span_that_a_completion_lacks_is_not_there_and_its_answer_is_empty():
    seen = view("<L1>sad</L1>", ("L1", "answer"))
    assert seen.completions[0].spans == {"L1": "sad"}
    assert seen.answers == [""]
    assert not seen.completions[0].keeps_form


def test_a_term_that_may_not_see_the_answer_has_no_answers():
    assert view(WRITTEN, ("L1",)).answers == [""]


def test_a_view_has_the_row_and_which_use_of_it_this_is():
    seen = view(WRITTEN, "answer")
    assert (seen.row.id, seen.row.post, seen.occurrence) == ("row-0", "post 0", (0, 0))
