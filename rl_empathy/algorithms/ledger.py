"""What becomes of an occurrence of a prompt: one state machine, as a pure function.

    open ──start──> sampling ──score──> scored ──take──> taken ──train──> trained
     ^                 │  └─────drop──────┤└──drop──> dropped
     └─────retry───────┘                  │
     └────────────roll_back───────────────┴── from anywhere but open

An open one is dropped, too, when its row is gone: a run may go on with fewer rows.

A rollback undoes what happened after the last whole checkpoint; so an entry is provisional until the checkpoint that
holds its step is whole, and exactly one `trained` or `dropped` of an occurrence survives.
"""

from typing import Literal, NamedTuple

State = Literal["open", "sampling", "scored", "taken", "trained", "dropped"]
Event = Literal["start", "score", "take", "train", "drop", "retry", "roll_back"]

TRANSITIONS: dict[tuple[State, Event], State] = {
    ("open", "start"): "sampling",
    ("open", "drop"): "dropped",
    ("sampling", "score"): "scored",
    ("sampling", "retry"): "open",
    ("sampling", "drop"): "dropped",
    ("scored", "take"): "taken",
    ("scored", "drop"): "dropped",
    ("taken", "train"): "trained",
    ("sampling", "roll_back"): "open",
    ("scored", "roll_back"): "open",
    ("taken", "roll_back"): "open",
    ("trained", "roll_back"): "open",
    ("dropped", "roll_back"): "open",
}


class Entry(NamedTuple):
    """Where an occurrence stands."""

    state: State = "open"
    step: int | None = None
    """The step that trained or dropped it."""
    reason: str | None = None
    """Why it was dropped."""
    retries: int = 0
    """How often it was opened again after a failure."""


def advance(entry: Entry, event: Event, *, step: int | None = None, reason: str | None = None) -> Entry:
    """Apply an event to an entry.

    Args:
        entry: Where the occurrence stands.
        event: What happened.
        step: The step that trains or drops it; wanted by `train` and `drop`.
        reason: Why; wanted by `drop`.

    Returns:
        Where it stands now.

    Raises:
        ValueError: The state does not allow the event, or step or reason is missing.
    """
    state = TRANSITIONS.get((entry.state, event))
    if state is None:
        raise ValueError(f"an occurrence that is {entry.state} cannot {event}")
    if event in ("train", "drop") and step is None:
        raise ValueError(f"{event} wants the step that does it")
    if event == "drop" and not reason:
        raise ValueError("drop wants a reason")
    retries = entry.retries + (event == "retry")
    return Entry(
        state, step if event in ("train", "drop") else None, reason if event == "drop" else None, retries
    )
