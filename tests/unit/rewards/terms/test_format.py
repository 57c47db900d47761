"""The form is worth 1 only when it is kept to the letter, and ends."""

import asyncio
from dataclasses import replace

import pytest

from rl_empathy.config.sections.rewards import FormatTerm
from rl_empathy.rewards.parts import Parts
from rl_empathy.rewards.terms.format import Format
from rl_empathy.rewards.view import view_of
from rl_empathy.schema import named_schema
from tests.fakes import make_group

SCHEMA = named_schema("chain_of_empathy")
GOOD = SCHEMA.render(
    {"L1": "sad", "L2": "alone", "L3": "wants comfort", "L4": "listen", "answer": "I hear you."}
)


@pytest.mark.parametrize(
    ("text", "finish_reason", "reward"),
    [
        (GOOD, "stop", 1.0),
        (GOOD, "length", 0.0),
        (GOOD.replace("<empathy_think>", ""), "stop", 0.0),  # read leniently, nothing is wrong with it
        (f"Well, {GOOD}", "stop", 0.0),
        (GOOD.replace("alone", "."), "stop", 0.0),
        (GOOD.replace("alone", "sad"), "stop", 0.0),
    ],
)
def test_only_what_the_schema_renders_and_ends_is_in_form(text, finish_reason, reward):
    group = make_group(size=1)
    completion = replace(group.completions[0], text=text, finish_reason=finish_reason)
    view = view_of(
        replace(group, completions=(completion,)), [SCHEMA.parse(text, strict=True)], SCHEMA, "answer"
    )
    term = Format(FormatTerm(kind="format"), Parts(language="en"))
    assert asyncio.run(term.score(view)) == [reward]
