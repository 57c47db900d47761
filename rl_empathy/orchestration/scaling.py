"""How many rollout workers a run should have: what idles tells, with hysteresis; or a number given by hand."""

import json
from pathlib import Path
from typing import NamedTuple

from rl_empathy.errors import RunDirectoryError
from rl_empathy.observability.disk import write_whole
from rl_empathy.observability.earlier_attempts import RESULT

BY_HAND = "rollout_workers.json"
"""In the run directory: the number that `rl-empathy scale` asks for."""
PATIENCE_STEPS = 3
"""Steps in a row that must say the same before the number changes."""
TRAINER_WAITS = 0.2
"""Add while the trainer waits for groups for more than this share of a step, and the workers are busy."""
WORKERS_BUSY = 0.2
"""They are, while they idle for less than this share."""
WORKERS_WAIT = 0.8
"""Take away while those that stay would be busy for less than this share of a step."""
TRAINER_BUSY = 0.1
"""And the trainer waits for less than this share."""


class Decision(NamedTuple):
    """A change of the number of workers."""

    workers: int
    reason: str


class Scaler:
    """Looks at every step; one worker more or less at a time, never below `minimum` or above `maximum`."""

    def __init__(self, minimum: int, maximum: int, by_hand: Path) -> None:
        """Begin to look.

        Args:
            minimum: Minimum of the run file.
            maximum: Maximum of the run file.
            by_hand: File with the number that somebody asked for; it need not be there, and wins when it is.
        """
        self._minimum = minimum
        self._maximum = maximum
        self._by_hand = by_hand
        self._steps_waiting = 0
        self._steps_spare = 0

    def decide(self, workers: int, *, trainer_waits: float, rollout_idle: float) -> Decision | None:
        """What a step says.

        Args:
            workers: There now, those that are being started included.
            trainer_waits: Share of the step for which the trainer waited for groups.
            rollout_idle: Share of the step for which the workers had nothing to write.

        Returns:
            The number to have, or None: leave it.
        """
        if (asked := number_by_hand(self._by_hand)) is not None:
            return Decision(asked, "asked for by hand") if asked != workers else None
        if workers < self._minimum:
            return Decision(
                self._minimum, "cluster.rollout_workers.min, since no number is asked for by hand"
            )
        remaining = (1 - rollout_idle) * workers / max(1, workers - 1)
        is_waiting = trainer_waits > TRAINER_WAITS and rollout_idle < WORKERS_BUSY
        is_spare = trainer_waits < TRAINER_BUSY and remaining < WORKERS_WAIT
        self._steps_waiting = self._steps_waiting + 1 if is_waiting else 0
        self._steps_spare = self._steps_spare + 1 if is_spare else 0
        if self._steps_waiting >= PATIENCE_STEPS and workers < self._maximum:
            self._steps_waiting = 0
            return Decision(workers + 1, f"the trainer waits for groups for {trainer_waits:.0%} of a step")
        if self._steps_spare >= PATIENCE_STEPS and workers > self._minimum:
            self._steps_spare = 0
            return Decision(workers - 1, f"the rollout workers idle for {rollout_idle:.0%} of a step")
        return None


def number_by_hand(path: Path) -> int | None:
    """What somebody asked for; None when nobody did.

    Raises:
        RunDirectoryError: The file says something else than a number.
    """
    try:
        asked = json.loads(path.read_text(encoding="utf-8"))["rollout_workers"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        asked = None
    if not isinstance(asked, int) or asked < 1:
        raise RunDirectoryError(
            f"{path} does not name a number of rollout workers; delete it, or scale again"
        )
    return asked


def ask_by_hand(run: Path, workers: int | None) -> None:
    """Ask a run, living or to be resumed, for a number of rollout workers; None: let it decide again.

    Raises:
        RunDirectoryError: There is no such run.
    """
    if not (run / "config.yaml").is_file():
        raise RunDirectoryError(f"{run} is no run directory: it has no config.yaml")
    if (run / "grpo" / RESULT).exists():
        raise RunDirectoryError(
            f"stage grpo of the run {run} is finished: it needs no rollout workers any more"
        )
    if workers is None:
        (run / BY_HAND).unlink(missing_ok=True)
    else:
        write_whole(run / BY_HAND, json.dumps({"rollout_workers": workers}) + "\n")
