"""Rollout groups between "prompt started" and "weights published": bounded, about in the order they started.

Why no group gets too stale. Groups are numbered as they start; P of them are trained a step, B slots bound what is
under way, and a take looks ahead W groups from the oldest untrained one, at number h: it may take any finished group
with a number below h + W. Let g be a group. Trained after its start and before itself are only

    those that held a slot when it started                                      at most B - 1
    those that started later and were still within the window of an oldest
    one that is not younger than g                                              at most W - 1

so at most floor((B + W - 2) / P) versions are made between its admission and its training: groups that were trained
on, but whose version the workers do not hold yet, have their slots still. With
B = (max_staleness + 1) P - W + 1 that is max_staleness. A look-ahead of one is strict order; a larger one lets a step
pass a straggler, but not for ever, and starts fewer groups ahead. The anchored window is that of TitanRL.
"""

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from rl_empathy.errors import TrainingError
from rl_empathy.observability.ledger import Ledger
from rl_empathy.orchestration.fleet import GroupHandle
from rl_empathy.types import Occurrence

DropReason = Callable[[GroupHandle], str | None]
"""Why a group is not worth training on; None when it is."""


@dataclass(frozen=True, eq=False)
class _Pending:
    number: int
    """In the order of start."""
    occurrence: Occurrence
    task: asyncio.Task[GroupHandle]
    adopted: GroupHandle | None = None
    """As a checkpoint had it, to be scored again."""


class GroupBuffer:
    """Slots bound what is under way; the window bounds how stale it can get.

    A slot is held from the start of a prompt until the weights that its group trained are published.
    """

    def __init__(
        self, *, capacity: int, look_ahead: int, max_dropped: int, ledger: Ledger, in_rounds: bool
    ) -> None:
        """Start empty.

        Args:
            capacity: Slots, B.
            look_ahead: Groups from the oldest untrained one on among which finished ones are taken, W.
            max_dropped: Groups that one take may drop before it gives up.
            ledger: Told what becomes of every group.
            in_rounds: Give the slots of dropped groups back only when all others of a take are there, so that new
                prompts start together, whatever the timing (deterministic runs).
        """
        self._free = capacity
        self._max_dropped = max_dropped
        self._freed = asyncio.Event()
        self._freed.set()
        self._look_ahead = look_ahead
        self._pending: deque[_Pending] = deque()
        self._numbers = itertools.count()
        self._arrived = asyncio.Event()
        self._wanted: tuple[int, int] | None = None
        self._taken: list[GroupHandle] = []
        self._dropped_in_take: list[GroupHandle] = []
        self._reasons: Counter[str] = Counter()
        self._ledger = ledger
        self._in_rounds = in_rounds

    async def reserve_slots(self) -> int:
        """Wait until prompts may start, and take every free slot."""
        await self._freed.wait()
        count, self._free = self._free, 0
        self._freed.clear()
        return count

    def release_slots(self, count: int) -> None:
        """Let `count` prompts start."""
        self._free += count
        if self._free > 0:
            self._freed.set()

    def add(self, occurrence: Occurrence, pending: asyncio.Task[GroupHandle]) -> None:
        """Enter a group that is being made, in the order of the calls; its slot was reserved."""
        self._enter(_Pending(next(self._numbers), occurrence, pending))

    def adopt(self, group: GroupHandle, pending: asyncio.Task[GroupHandle]) -> None:
        """Enter a group that an earlier attempt finished, before any prompt starts; takes a slot."""
        self._free -= 1
        if self._free <= 0:
            self._freed.clear()
        self._enter(_Pending(next(self._numbers), group.header.occurrence, pending, adopted=group))

    def _enter(self, entry: _Pending) -> None:
        self._ledger.move(entry.occurrence, "start")
        self._pending.append(entry)
        self._arrived.set()

    def cancel_pending(self) -> None:
        """Give up what is still being made, at the end of a run."""
        for entry in self._pending:
            entry.task.cancel()

    async def take(self, count: int, *, step: int, drop_reason: DropReason) -> list[GroupHandle]:
        """Wait for `count` groups of the window worth training on; the others give their slot back.

        Cancelling it loses nothing: what was taken so far is still among `finished`.

        Args:
            count: Groups wanted.
            step: The step that will train them, for the ledger.
            drop_reason: Which groups are not worth it.

        Returns:
            The groups, in the order in which they were taken.

        Raises:
            TrainingError: `max_dropped` groups were dropped and the take is still not full.
        """
        self._wanted = (step, count)
        while len(self._taken) < count:
            dropped = await self._take_round(count - len(self._taken), step, drop_reason)
            if dropped and len(self._dropped_in_take) >= self._max_dropped:
                reasons = self._reasons
                raise TrainingError(
                    f"step {step} dropped {len(self._dropped_in_take)} groups (grpo.max_dropped_groups) and has "
                    f"{len(self._taken)} of the {count} that it wants: {dict(reasons)}. "
                    f"{_way_out(self._dropped_in_take, reasons)}"
                )
            self.release_slots(dropped)
        groups, self._taken, self._wanted = self._taken, [], None
        for group in groups:
            self._ledger.move(group.header.occurrence, "take")
        return groups

    @property
    def awaited(self) -> str:
        """What a take waits for, in words; "" when none does."""
        if self._wanted is None:
            return ""
        step, count = self._wanted
        scored = sum(entry.task.done() for entry in self._pending)
        text = f"groups of step {step}: {len(self._taken)} of {count} taken"
        text += f", {scored} more scored" if scored else ""
        text += f", {len(self._pending) - scored} under way"
        reasons = ", ".join(f"{count} {reason}" for reason, count in self._reasons.most_common())
        return text + (f", {self._reasons.total()} dropped ({reasons})" if self._reasons else "")

    def dropped_in_take(self) -> list[GroupHandle]:
        """Groups that the last take dropped, for the metrics; asking empties the list."""
        dropped, self._dropped_in_take = self._dropped_in_take, []
        self._reasons.clear()
        return dropped

    def finished(self) -> list[GroupHandle]:
        """Groups that wait for the trainer, or wait to be scored again for it; they go into a checkpoint."""
        entries = [
            entry.task.result() if entry.task.done() and not entry.task.cancelled() else entry.adopted
            for entry in self._pending
        ]
        return [*self._taken, *(group for group in entries if group is not None)]

    async def _take_round(self, count: int, step: int, drop_reason: DropReason) -> int:
        dropped = 0
        for _ in range(count):
            entry = await self._next_finished()
            group = entry.task.result()
            reason = drop_reason(group)
            if reason is None:
                self._taken.append(group)
                continue
            self._ledger.move(entry.occurrence, "drop", step=step, reason=reason)
            self._dropped_in_take.append(group)
            self._reasons[reason] += 1
            dropped += 1
            if not self._in_rounds:
                return dropped
        return dropped

    async def _next_finished(self) -> _Pending:
        """The oldest finished group of the window, once there is one."""
        while True:
            last = self._pending[0].number + self._look_ahead if self._pending else 0
            window = [entry for entry in self._pending if entry.number < last]
            for entry in window:
                if entry.task.done():
                    self._pending.remove(entry)
                    return entry
            self._arrived.clear()
            arrival = asyncio.ensure_future(self._arrived.wait())
            try:
                waited = [arrival, *(entry.task for entry in window)]
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            finally:
                arrival.cancel()


def _way_out(dropped: Sequence[GroupHandle], reasons: Counter[str]) -> str:
    """What to do about groups that were dropped, by the commonest reason."""
    if reasons.most_common(1)[0][0] != "no_reward_spread":
        return "A reward term or the reference model gave no score: logs/attempt_*/reward_model.log says why"
    kinds = [kinds for group in dropped if group.rewards for kinds in group.rewards.errors]
    if kinds and all(kinds):
        common = ", ".join(
            f"{kind} {count}" for kind, count in Counter(chain.from_iterable(kinds)).most_common(3)
        )
        return (
            f"None of their {len(kinds)} replies keeps the form of the schema ({common}), so what reads their answers "
            "gives all the same: fine-tune for longer, on rows that have every span (see data.missing_trace)"
        )
    return (
        "When no reward differs within a group, raise grpo.sampling.temperature or grpo.group_size, look at the "
        "reward terms, or set grpo.keep_groups: all"
    )
