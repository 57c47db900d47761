"""A judge behind a URL: what it is asked, what its grades become, and what its failures cost."""

import asyncio
import json
import threading
from dataclasses import replace

import pytest

from rl_empathy.config.sections import RewardsConfig
from rl_empathy.errors import ConfigError, RewardError
from rl_empathy.rewards.parts import Parts
from rl_empathy.rewards.scoring import RewardScorer, scored_terms
from rl_empathy.rewards.terms import check_terms
from rl_empathy.schema import named_schema
from tests.chat_server import chat_servers, reply
from tests.fakes import make_group

SCHEMA = named_schema("think_answer")


@pytest.fixture
def serve():
    with chat_servers(about=lambda text: json.loads(text)["reply"]) as start:
        yield start


def totals(url, folder, *answers, have_worked=False, **keys):
    term = {"kind": "judge", "base_url": url, "model": "big", "retries": 0} | keys
    config = RewardsConfig(terms=(term,))
    parts = Parts(language="en", cache=folder)
    texts = [
        SCHEMA.render({"think": f"what I think of {answer}", "answer": answer}) if answer else ""
        for answer in answers
    ]
    group = make_group(size=len(texts))
    written = tuple(replace(c, text=text) for c, text in zip(group.completions, texts, strict=True))

    async def score():
        terms = scored_terms(config, parts, have_worked=have_worked)
        return await RewardScorer(SCHEMA, terms, str).score(replace(group, completions=written))

    return asyncio.run(score()).totals


def grades(**by_answer):
    return lambda answer, n: reply(json.dumps({"grade": by_answer[answer]}))


def test_a_grade_is_a_place_on_the_scale_and_no_answer_has_the_worst_and_is_not_sent(tmp_path, serve):
    server = serve(grades(warm=5, cold=2))
    assert totals(server.url, tmp_path, "warm", "cold", "") == (1.0, 0.25, 0.0)
    assert totals(server.url, tmp_path, "cold", "", weight=-1.0) == (-0.25, -1.0)
    assert set(server.calls) == {"warm", "cold"}, "the judge sees the answer, and not the reasoning"


def test_the_completions_of_a_group_are_judged_at_the_same_time(tmp_path, serve):
    meeting = threading.Barrier(3, timeout=10)

    def wait_for_the_others(answer, n):
        meeting.wait()
        return reply("3")

    assert totals(serve(wait_for_the_others).url, tmp_path, "one", "two", "three") == (0.5, 0.5, 0.5)


def test_no_more_calls_at_a_time_than_the_run_file_says(tmp_path, serve):
    server = serve(grades(one=1, two=2, three=3, four=4))
    totals(server.url, tmp_path, "one", "two", "three", "four", concurrency=2)
    assert server.most <= 2


def test_a_grade_that_was_given_is_not_asked_for_again(tmp_path, serve):
    first = serve(grades(warm=5))
    totals(first.url, tmp_path, "warm")
    second = serve(grades(warm=1))
    assert totals(second.url, tmp_path, "warm") == (1.0,)
    assert not second.calls


@pytest.mark.parametrize("answer", ["nine of five", '{"grade": 9}', ""])
def test_a_judge_that_babbles_or_lies_is_asked_again_and_then_its_completion_has_no_score(
    tmp_path, serve, answer
):
    server = serve(lambda text, n: reply('{"grade": 5}' if text == "warm" or n == 3 else answer))
    assert totals(server.url, tmp_path / "third", "warm", "cold") == (1.0, 1.0)
    server = serve(lambda text, n: reply('{"grade": 5}' if text == "warm" else answer))
    assert totals(server.url, tmp_path / "never", "warm", "cold") == (1.0, None)
    assert server.calls["cold"] == 3


def test_a_judge_that_is_busy_is_asked_again(tmp_path, serve):
    server = serve(lambda text, n: (503, "busy") if n == 1 else reply("5"))
    assert totals(server.url, tmp_path, "warm") == (1.0,)


def test_a_judge_that_hangs_costs_its_group_the_scores_and_not_the_run(tmp_path, serve):
    release = threading.Event()
    server = serve(lambda text, n: (release.wait(30), reply("5"))[1])
    assert totals(server.url, tmp_path, "warm", have_worked=True, deadline_s=0.2) == (None,)
    release.set()


def test_a_judge_that_refuses_the_model_ends_the_run_that_it_never_served(tmp_path, serve):
    server = serve(lambda text, n: (404, "no such model"))
    with pytest.raises(RewardError, match=r"reward term judge.*refused model 'big'.*HTTP 404"):
        totals(server.url, tmp_path, "warm")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"base_url": "localhost:8000"}, "must begin with http:// or https://"),
        ({"rubric": "emphaty"}, "no rubric 'emphaty'"),
        ({"api_key_name": "A_KEY_THAT_IS_NOT_SET"}, "A_KEY_THAT_IS_NOT_SET .* is not set"),
    ],
)
def test_what_is_wrong_with_a_judge_is_told_before_a_run(keys, told):
    term = {"kind": "judge", "base_url": "http://localhost:1/v1", "model": "big"} | keys
    with pytest.raises(ConfigError, match=told):
        check_terms(RewardsConfig(terms=(term,)), Parts(language="en"))
