"""Whether a rollout worker may serve: one state machine, as a pure function.

    stale ──load──> loading ──loaded──> ready ──load──> loading …
      ^                └──miss──> stale
      └──────────────────────────────┘
    ready | stale ──drain──> draining ──stop──> stopped
    any of these but stopped ──die──> dead

Only a worker that is ready gets work, so it serves after a finished refit and never before; one that missed a
publish is stale until a whole load. Dead and stopped are final: what replaces such a worker is another one.
"""

from typing import Literal

WorkerState = Literal["stale", "loading", "ready", "draining", "stopped", "dead"]
WorkerEvent = Literal["load", "loaded", "miss", "drain", "stop", "die"]

TRANSITIONS: dict[tuple[WorkerState, WorkerEvent], WorkerState] = {
    ("stale", "load"): "loading",
    ("ready", "load"): "loading",
    ("loading", "loaded"): "ready",
    ("loading", "miss"): "stale",
    ("ready", "drain"): "draining",
    ("stale", "drain"): "draining",
    ("draining", "stop"): "stopped",
    ("stale", "die"): "dead",
    ("loading", "die"): "dead",
    ("ready", "die"): "dead",
    ("draining", "die"): "dead",
}


def next_state(state: WorkerState, event: WorkerEvent) -> WorkerState:
    """The state after an event.

    Raises:
        ValueError: The state does not allow the event.
    """
    after = TRANSITIONS.get((state, event))
    if after is None:
        raise ValueError(f"a rollout worker that is {state} cannot {event}")
    return after
