"""Functions of the user's: found by path, called with what the run file says, sync or async."""

import asyncio
import threading
from dataclasses import replace

import pytest

from rl_empathy.config.sections import RewardsConfig
from rl_empathy.errors import ConfigError
from rl_empathy.rewards.parts import Parts
from rl_empathy.rewards.scoring import RewardScorer, scored_terms
from rl_empathy.rewards.terms import check_terms
from rl_empathy.schema import named_schema
from rl_empathy.types import Message, Reference, Row
from tests.fakes import make_group

SCHEMA = named_schema("plain")
PARTS = Parts(language="en")


def brevity(view, *, limit=600):
    return [max(0.0, 1 - len(answer) / limit) if answer else 0.0 for answer in view.answers]


async def asynchronous_brevity(view, *, limit=600):
    await asyncio.sleep(0)
    return brevity(view, limit=limit)


def names_its_thread(view):
    threads.append(threading.current_thread())
    return [0.0] * len(view.completions)


def warmth(prompts, completions, topic, references, factor, **others):
    """As TRL calls one: a list of everything, with one entry a completion."""
    calls.append(
        {"prompts": prompts, "completions": completions, "topic": topic, "references": references} | others
    )
    return [factor * len(completion) for completion in completions]


def first_message(prompts, completions, **columns):
    return [float(completion[0]["content"] == "I hear you.") for completion in completions]


threads: list = []
calls: list = []


def totals(term, *texts, row=None):
    config = RewardsConfig(terms=(term,))
    scoring = RewardScorer(SCHEMA, scored_terms(config, PARTS, have_worked=False), lambda ids: "x" * len(ids))
    group = make_group(size=len(texts))
    if row:
        group = replace(group, prompt=replace(group.prompt, row=row))
    written = tuple(replace(c, text=text) for c, text in zip(group.completions, texts, strict=True))
    return asyncio.run(scoring.score(replace(group, completions=written))).totals


def function(name, **keys):
    return {"kind": "function", "function": f"{__name__}.{name}"} | keys


@pytest.mark.parametrize("name", ["brevity", "asynchronous_brevity"])
def test_a_function_gets_the_view_and_the_arguments_of_the_run_file(name):
    assert totals(function(name, arguments={"limit": 10}, weight=2.0), "12345", "x" * 20) == (1.0, 0.0)


def test_a_function_that_blocks_runs_on_a_thread_of_its_own():
    threads.clear()
    totals(function("names_its_thread"), "a")
    assert threads[0] is not threading.main_thread()


def test_a_module_beside_the_run_file_is_found(tmp_path):
    (tmp_path / "my_rewards_of_this_test.py").write_text(
        "def one(view): return [1.0] * len(view.completions)"
    )
    term = {"kind": "function", "function": "my_rewards_of_this_test.one"}
    parts = Parts(language="en", import_from=[str(tmp_path)])
    check_terms(RewardsConfig(terms=(term,)), parts)


@pytest.mark.parametrize(
    ("term", "told"),
    [
        ({"function": "no_such_module.f"}, "no_such_module.f.*ModuleNotFoundError"),
        ({"function": "tests.rewards.no_such_function"}, "tests.rewards has no .no_such_function."),
        ({"function": "dotless"}, "'dotless' is no dotted path, such as my_project.rewards.brevity"),
        ({"function": "math.pi"}, "'math.pi' is a float, which cannot be called"),
        (
            {"function": f"{__name__}.brevity", "arguments": {"limits": 5}},
            r"brevity\(view, \*, limit=600\) does not take what it is given.*'limits'",
        ),
        (
            {"function": f"{__name__}.brevity", "kind": "trl_function"},
            r"does not take what it is given \(.*prompts.*\): got an unexpected keyword argument 'prompts'",
        ),
    ],
)
def test_what_is_wrong_with_a_function_is_told_before_a_run(term, told):
    with pytest.raises(ConfigError, match=told):
        check_terms(RewardsConfig(terms=({"kind": "function"} | term,)), PARTS)


ROW = Row(
    id="r7",
    messages=(Message(role="user", content="My cat is gone."),),
    references=(Reference(text="I am sorry."),),
    metadata={"topic": "loss"},
)


def test_a_function_of_trl_gets_lists_with_one_entry_a_completion():
    calls.clear()
    term = function("warmth", kind="trl_function", arguments={"factor": 0.5})
    assert totals(term, "four", "eleven", row=ROW) == (2.0, 3.0)
    assert calls == [
        {
            "prompts": ["My cat is gone."] * 2,
            "completions": ["four", "eleven"],
            "topic": ["loss"] * 2,
            "references": [["I am sorry."]] * 2,
            "id": ["r7"] * 2,
            "post": ["My cat is gone."] * 2,
        }
    ]


def test_a_conversational_function_of_trl_gets_messages():
    term = function("first_message", kind="trl_function", conversational=True)
    assert totals(term, "I hear you.", "No.", row=ROW) == (1.0, 0.0)
