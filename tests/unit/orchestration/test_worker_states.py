import itertools
from typing import get_args

import pytest

from rl_empathy.orchestration.fleet.workers.states import TRANSITIONS, WorkerEvent, WorkerState, next_state


def after(*events: WorkerEvent) -> WorkerState:
    state: WorkerState = "stale"
    for event in events:
        state = next_state(state, event)
    return state


def test_a_worker_serves_after_its_first_load_and_not_before():
    assert after("load") == "loading"
    assert after("load", "loaded") == "ready"


def test_one_that_missed_a_publish_serves_again_after_a_whole_load():
    assert after("load", "loaded", "load", "miss") == "stale"
    assert after("load", "loaded", "load", "miss", "load", "loaded") == "ready"


def test_one_that_is_taken_away_drains_first():
    assert after("load", "loaded", "drain") == "draining"
    assert after("load", "loaded", "drain", "stop") == "stopped"


@pytest.mark.parametrize(("state", "event"), itertools.product(["dead", "stopped"], get_args(WorkerEvent)))
def test_dead_and_stopped_are_final(state, event):
    with pytest.raises(ValueError, match=f"a rollout worker that is {state} cannot {event}"):
        next_state(state, event)


def test_every_living_state_may_die():
    living = set(get_args(WorkerState)) - {"dead", "stopped"}
    assert {state for state, event in TRANSITIONS if event == "die"} == living
