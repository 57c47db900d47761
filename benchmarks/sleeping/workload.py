"""The prompts of a run, the time that each group takes, and the waits that no loop can avoid."""

import math
import random
from dataclasses import dataclass

from rl_empathy.config.sections import GRPOConfig
from rl_empathy.data.prompts import PromptStream
from rl_empathy.orchestration.grpo import slots
from rl_empathy.types import Message, Occurrence, Row


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Heavy-tailed (log-normal) times to write a group, the same in every run."""

    mean_s: float
    sigma: float
    longest_s: float = math.inf
    """What max_completion_tokens allows."""

    def write_s(self, occurrence: Occurrence) -> float:
        """Seconds that the group of an occurrence takes."""
        tail = random.Random(f"{occurrence}").lognormvariate(-self.sigma * self.sigma / 2, self.sigma)
        return min(self.longest_s, self.mean_s * tail)


def prompt_stream() -> PromptStream:
    """What every run samples, in its order."""
    row = Row(id="row", messages=(Message(role="user", content="post"),))
    return PromptStream([(row, [1])] * 4096, seed=0)


def ideal_waits_s(config: GRPOConfig, lengths: Lengths, update_s: float) -> list[float]:
    """How long the trainer waits for groups in every step when nothing but writing and updating takes time.

    A simulation with the slots and the window of the real loop; the run takes their sum and the updates.
    """
    prompts = prompt_stream()
    pending: list[tuple[int, float]] = []  # number in the order of start, and when it is written
    now, number, waits = 0.0, 0, []
    free = slots(config)
    for _ in range(config.num_steps):
        for prompt in prompts.take(free):
            pending.append((number, now + lengths.write_s(prompt.occurrence)))
            number += 1
        began = now
        for _ in range(config.groups_per_step):
            window = [entry for entry in pending if entry[0] < pending[0][0] + config.look_ahead]
            now = max(now, min(done for _, done in window))
            pending.remove(next(entry for entry in window if entry[1] <= now))
        waits.append(now - began)
        now += update_s
        free = config.groups_per_step
    return waits
