"""How long the steps of the GRPO loop take, and what of it is waited."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rl_empathy.orchestration.fleet import GroupHandle


class Waits(NamedTuple):
    """Seconds of a step in which the loop waited."""

    checkpoint: float = 0.0
    groups: float = 0.0
    publish: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """How long a step took, and what of it was waited."""

    step_s: float
    waits: Waits
    busy_s: float
    """For which the trainer's process worked; in all the rest it idled, whatever it waited for."""
    finished_tokens: int
    """Of the groups that the step took or dropped, whenever they were written."""

    @property
    def trainer_waits_share(self) -> float:
        """Share of the step for which the trainer waited for groups."""
        return self.waits.groups / self.step_s

    def metrics(self) -> dict[str, float]:
        return {
            "time/checkpoint_s": self.waits.checkpoint,
            "time/wait_for_groups_s": self.waits.groups,
            "time/wait_for_publish_s": self.waits.publish,
            "time/step_s": self.step_s,
            "idle/trainer_fraction": max(0.0, 1 - self.busy_s / self.step_s),
            "tokens/generated_per_s": self.finished_tokens / self.step_s,
        }


class StepClock:
    """Times the steps, each from the end of the one before."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._started: float = asyncio.get_running_loop().time()
        self._waits = Waits()

    @contextmanager
    def waiting(self, what: Literal["checkpoint", "groups", "publish"]) -> Iterator[None]:
        """Time a wait of the step; the copy for a checkpoint belongs to the step after it."""
        began = asyncio.get_running_loop().time()
        yield
        waited = asyncio.get_running_loop().time() - began
        self._waits = self._waits._replace(**{what: getattr(self._waits, what) + waited})

    def end_step(self, groups: Sequence[GroupHandle], *, busy_s: float) -> StepTimes:
        """The times of the step; the next one begins.

        Args:
            groups: Trained in it or dropped.
            busy_s: For which the trainer's process worked.
        """
        times = StepTimes(
            step_s=asyncio.get_running_loop().time() - self._started,
            waits=self._waits,
            busy_s=busy_s,
            finished_tokens=sum(length for group in groups for length in group.header.completion_tokens),
        )
        self._begin()
        return times
