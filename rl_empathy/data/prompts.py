"""Rows as prompts, and the endless stream of them: seeded, in epochs, and resumable to the occurrence."""

import random
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from rl_empathy.data.conversations import prompt_token_ids
from rl_empathy.errors import DataError
from rl_empathy.types import Occurrence, Prompt, Row

START = Occurrence(0, 0)


class Rendered(NamedTuple):
    """Rows as prompts, and what became of the other rows, by id."""

    prompts: list[tuple[Row, list[int]]]
    """In the order of the rows, each with its token ids."""
    refused: dict[str, str]
    """Those that the chat template refuses, or in which a text would become structure: why."""
    too_long: dict[str, int]
    """Tokens of those that are too long."""


def rendered(rows: Sequence[Row], tokenizer: Any, *, system_prompt: str, max_tokens: int) -> Rendered:
    """Write rows as prompts of at most max_tokens tokens."""
    made = Rendered([], {}, {})
    for row in rows:
        try:
            ids = prompt_token_ids(tokenizer, row.messages, system_prompt=system_prompt)
        except DataError as error:
            made.refused[row.id] = str(error)
            continue
        if len(ids) > max_tokens:
            made.too_long[row.id] = len(ids)
        else:
            made.prompts.append((row, ids))
    return made


class PromptStream:
    """Gives out occurrences in order: those opened again first, then the epochs' orders from the cursor on."""

    def __init__(
        self,
        prompts: Sequence[tuple[Row, Sequence[int]]],
        *,
        seed: int,
        cursor: Occurrence = START,
        opened: Sequence[Occurrence] = (),
    ) -> None:
        """Stand where a run stood.

        Args:
            prompts: Rows with their token ids.
            seed: Every epoch has an order of its own, drawn from it.
            cursor: The first occurrence that was never given out.
            opened: Occurrences to give out again, before all others.
        """
        self._prompts = prompts
        self._seed = seed
        self._cursor = cursor
        self._opened = sorted(opened)

    def go_to(self, cursor: Occurrence, opened: Sequence[Occurrence]) -> list[Occurrence]:
        """Stand where a checkpoint stood; see the constructor. A cursor beyond the rows begins the next epoch.

        Returns:
            Opened occurrences whose rows are gone; see `open_again`.
        """
        self._cursor = cursor if self._has(cursor) else Occurrence(cursor.epoch + 1, 0)
        self._opened = []
        return self.open_again(opened)

    def open_again(self, occurrences: Sequence[Occurrence]) -> list[Occurrence]:
        """Give occurrences out once more, before those that were never given out.

        Returns:
            Those that cannot be: their rows are gone, since the run goes on with fewer than before.
        """
        self._opened = sorted([*self._opened, *filter(self._has, occurrences)])
        return [occurrence for occurrence in occurrences if not self._has(occurrence)]

    def withhold(self, occurrences: Collection[Occurrence]) -> None:
        """Pass over occurrences that would be given out: somebody has what came of them."""
        wanted, others = set(occurrences), []
        while wanted:
            occurrence = self._next().occurrence
            if occurrence in wanted:
                wanted.remove(occurrence)
            else:
                others.append(occurrence)
        self.open_again(others)

    @property
    def cursor(self) -> Occurrence:
        return self._cursor

    @property
    def opened(self) -> list[Occurrence]:
        """Occurrences still to be given out again."""
        return list(self._opened)

    def take(self, count: int) -> list[Prompt]:
        """The next prompts."""
        return [self._next() for _ in range(count)]

    def _has(self, occurrence: Occurrence) -> bool:
        return occurrence.index < len(self._prompts)

    def _next(self) -> Prompt:
        if self._opened:
            return self._prompt(self._opened.pop(0))
        here = self._cursor
        last = here.index + 1 == len(self._prompts)
        self._cursor = Occurrence(here.epoch + 1, 0) if last else Occurrence(here.epoch, here.index + 1)
        return self._prompt(here)

    def _prompt(self, occurrence: Occurrence) -> Prompt:
        order = _order(self._seed, occurrence.epoch, len(self._prompts))
        row, token_ids = self._prompts[order[occurrence.index]]
        return Prompt(occurrence=occurrence, row=row, token_ids=tuple(token_ids))


@lru_cache(maxsize=2)  # what is given out again may be of the epoch before
def _order(seed: int, epoch: int, count: int) -> Sequence[int]:
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def held_out_prompts(prompts: Sequence[tuple[Row, Sequence[int]]]) -> list[Prompt]:
    """Prompts outside the stream, of epoch -1: what is sampled for an evaluation stands in no ledger."""
    return [
        Prompt(occurrence=Occurrence(-1, index), row=row, token_ids=tuple(token_ids))
        for index, (row, token_ids) in enumerate(prompts)
    ]
