import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_empathy.algorithms.ledger import TRANSITIONS, Entry, advance
from rl_empathy.errors import LedgerError
from rl_empathy.observability.ledger import Ledger
from rl_empathy.types import Occurrence

A, B, C = (Occurrence(0, index) for index in range(3))


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def make_ledger(path: Path) -> Ledger:
    """A trained in step 1, B dropped in step 2 after a retry, C being sampled."""
    ledger = Ledger(path / "ledger.jsonl")
    for occurrence in (A, B, C):
        ledger.move(occurrence, "start")
    for event in ("retry", "start", "score"):
        ledger.move(B, event)  # type: ignore[arg-type]
    ledger.move(B, "drop", step=2, reason="no_spread")
    ledger.move(A, "score")
    ledger.move(A, "take")
    ledger.trained([A], step=1)
    return ledger


def test_what_ends_is_written_down_once(tmp_path: Path) -> None:
    make_ledger(tmp_path)
    assert lines_of(tmp_path / "ledger.jsonl") == [
        {"epoch": 0, "index": 1, "state": "dropped", "step": 2, "reason": "no_spread"},
        {"epoch": 0, "index": 0, "state": "trained", "step": 1},
    ]


def test_metrics_count_by_what_became_of_the_prompts(tmp_path: Path) -> None:
    assert make_ledger(tmp_path).metrics() == {
        "ledger/trained": 1,
        "ledger/dropped/no_spread": 1,
        "ledger/retried": 1,
        "ledger/duplicates": 0,
    }


def counted(entries: Iterable[Entry]) -> dict[str, float]:
    """The metrics, by going through all entries."""
    entries = list(entries)
    dropped = Counter(f"ledger/dropped/{entry.reason}" for entry in entries if entry.state == "dropped")
    return {
        "ledger/trained": sum(entry.state == "trained" for entry in entries),
        "ledger/retried": sum(entry.retries for entry in entries),
        "ledger/duplicates": 0,
        **dropped,
    }


EVENTS = [*sorted({event for _, event in TRANSITIONS}), "resume"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.sampled_from(EVENTS), st.sampled_from("xy"))))
def test_metrics_tell_what_the_entries_are_after_any_moves_rollbacks_and_resumes(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[Occurrence, str, str]]
) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("run") / "ledger.jsonl")
    entries = dict.fromkeys((A, B, C), Entry())
    for occurrence, event, reason in moves:
        entry = entries[occurrence]
        if event == "resume":
            ledger.resume(ledger.state())
            entries = {o: e if e.state in ("trained", "dropped") else Entry() for o, e in entries.items()}
        elif (entry.state, event) in TRANSITIONS:
            ledger.move(occurrence, event, step=1, reason=reason)  # type: ignore[arg-type]
            entries[occurrence] = advance(entry, event, step=1, reason=reason)  # type: ignore[arg-type]
        assert ledger.metrics() == counted(entries.values())


def test_a_step_that_the_state_does_not_allow_names_occurrence_and_file(tmp_path: Path) -> None:
    with pytest.raises(
        LedgerError, match=r"occurrence 0:0 \(ledger .*ledger.jsonl\): .* trained cannot train"
    ):
        make_ledger(tmp_path).move(A, "train", step=5)


def test_only_what_has_not_ended_is_unfinished(tmp_path: Path) -> None:
    assert make_ledger(tmp_path).unfinished() == [C]


def test_a_roll_back_is_written_down_and_leaves_no_duplicate(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path)
    ledger.move(C, "roll_back")
    ledger.move(A, "roll_back")
    assert ledger.metrics()["ledger/trained"] == 0
    for event in ("start", "score", "take"):
        ledger.move(A, event)  # type: ignore[arg-type]
    ledger.trained([A], step=3)
    assert ledger.metrics()["ledger/duplicates"] == 0
    assert [(line["index"], line["state"], line["step"]) for line in lines_of(tmp_path / "ledger.jsonl")] == [
        (1, "dropped", 2),
        (0, "trained", 1),
        (0, "rolled_back", 1),
        (0, "trained", 3),
    ]


def test_a_resume_cuts_the_file_back_to_the_checkpoint(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path)
    before, state = ledger.metrics(), json.loads(json.dumps(ledger.state()))
    for event in ("score", "take"):
        ledger.move(C, event)  # type: ignore[arg-type]
    ledger.trained([C], step=3)

    resumed = Ledger(tmp_path / "ledger.jsonl")
    resumed.resume(state)
    assert resumed.metrics() == before
    assert resumed.state() == state
    assert [line["index"] for line in lines_of(tmp_path / "ledger.jsonl")] == [0, 1]


def test_an_occurrence_that_ended_twice_in_a_checkpoint_is_a_duplicate(tmp_path: Path) -> None:
    state = make_ledger(tmp_path).state()
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.resume([*state, state[0]])
    assert ledger.metrics()["ledger/duplicates"] == 1
    ledger.move(Occurrence(*state[0]["occurrence"]), "roll_back")
    assert ledger.metrics()["ledger/duplicates"] == 0
    ledger.resume(state)
    assert ledger.metrics()["ledger/duplicates"] == 0


def test_a_resume_without_a_checkpoint_empties_the_file(tmp_path: Path) -> None:
    make_ledger(tmp_path)
    Ledger(tmp_path / "ledger.jsonl").resume([])
    assert lines_of(tmp_path / "ledger.jsonl") == []
