import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_empathy.algorithms.ledger import TRANSITIONS, Entry, advance

EVENTS = ["start", "score", "take", "train", "drop", "retry", "roll_back"]


def after(*events):
    entry = Entry()
    for event in events:
        entry = advance(entry, event, step=3, reason="no_reward_spread")
    return entry


def test_the_ordinary_way_ends_trained_with_its_step():
    assert after("start", "score", "take", "train") == Entry("trained", 3, None, 0)


def test_a_dropped_occurrence_keeps_its_reason():
    assert after("start", "score", "drop") == Entry("dropped", 3, "no_reward_spread", 0)


def test_what_is_open_may_be_dropped_but_not_trained():
    assert after("drop").state == "dropped"
    with pytest.raises(ValueError, match="open cannot train"):
        after("train")


def test_a_retry_opens_it_again_and_is_counted():
    assert after("start", "retry", "start") == Entry("sampling", None, None, 1)


def test_what_is_trained_cannot_be_trained_again():
    with pytest.raises(ValueError, match="trained cannot train"):
        after("start", "score", "take", "train", "train")


def test_a_rollback_undoes_an_ending():
    assert after("start", "score", "take", "train", "roll_back").state == "open"


def test_a_drop_wants_a_reason():
    with pytest.raises(ValueError, match="reason"):
        advance(Entry("scored"), "drop", step=1)


@given(st.lists(st.sampled_from(EVENTS), max_size=30))
def test_any_schedule_keeps_one_state_and_ends_at_most_once_between_rollbacks(events):
    entry, endings = Entry(), 0
    for event in events:
        if (entry.state, event) not in TRANSITIONS:
            with pytest.raises(ValueError, match="cannot"):
                advance(entry, event, step=1, reason="x")
            continue
        entry = advance(entry, event, step=1, reason="x")
        endings = 0 if event == "roll_back" else endings + (event in ("train", "drop"))
        assert endings <= 1
        assert (entry.state in ("trained", "dropped")) == (endings == 1)
