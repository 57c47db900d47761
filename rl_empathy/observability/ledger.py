"""The ledger of a run: every occurrence in one place, and `ledger.jsonl` as its projection."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rl_empathy.algorithms.ledger import Entry, Event, advance
from rl_empathy.errors import LedgerError
from rl_empathy.observability.disk import whole_file
from rl_empathy.types import Occurrence


class Ledger:
    """Moves occurrences through their states, counts, and writes down what ends.

    The checkpoint is the truth: `state()` goes into it, and `resume` cuts the file back to it. In the file
    the last line of an occurrence is what became of it: a roll-back writes a line too, with the step that it
    undoes.

    `trained` means that a step took it; whether the step's updates were made, or skipped since a gradient was not
    finite, tells `policy/skipped_updates` of that step.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[Occurrence, Entry] = {}
        self._ended: Counter[Occurrence] = Counter()
        self._counts: Counter[str] = Counter()
        """What `metrics` tells, kept up to date: a long run has too many entries to go through each step."""

    def move(
        self, occurrence: Occurrence, event: Event, *, step: int | None = None, reason: str | None = None
    ) -> None:
        """Apply an event; `train` and `drop` are written to the file.

        Raises:
            LedgerError: The occurrence's state does not allow it.
        """
        try:
            before = self._entries.get(occurrence, Entry())
            entry = advance(before, event, step=step, reason=reason)
        except ValueError as error:
            raise LedgerError(f"occurrence {occurrence} (ledger {self._path}): {error}") from error
        self._entries[occurrence] = entry
        self._count(before, -1)
        self._count(entry, +1)
        if event in ("train", "drop"):
            self._counts["ledger/duplicates"] += self._ended[occurrence] > 0
            self._ended[occurrence] += 1
            self._append(occurrence, _ending(entry))
        elif event == "roll_back" and before.state in ("trained", "dropped"):
            self._ended[occurrence] -= 1
            self._counts["ledger/duplicates"] -= self._ended[occurrence] > 0
            self._append(occurrence, {"state": "rolled_back", "step": before.step})

    def trained(self, occurrences: Iterable[Occurrence], *, step: int) -> None:
        """Record the occurrences that a step trained."""
        for occurrence in occurrences:
            self.move(occurrence, "train", step=step)

    def rows_gone(self, occurrences: Iterable[Occurrence], *, step: int) -> None:
        """Record the opened occurrences that cannot be sampled: the run goes on with fewer rows than before."""
        for occurrence in occurrences:
            self.move(occurrence, "drop", step=step, reason="row_gone")

    def started_again(self, occurrence: Occurrence) -> None:
        """Record that a group was lost while it was sampled, and begins anew."""
        self.move(occurrence, "retry")
        self.move(occurrence, "start")

    def metrics(self) -> dict[str, float]:
        """Counts since the beginning of the run, rollbacks undone."""
        return {
            **dict.fromkeys(("ledger/trained", "ledger/retried", "ledger/duplicates"), 0),
            **{name: count for name, count in sorted(self._counts.items()) if count},
        }

    def has_ended(self, occurrence: Occurrence) -> bool:
        """Whether it was trained or dropped."""
        return self._entries.get(occurrence, Entry()).state in ("trained", "dropped")

    def unfinished(self) -> list[Occurrence]:
        """Occurrences under way, oldest first; after a resume they are opened again."""
        return sorted(o for o, e in self._entries.items() if e.state not in ("trained", "dropped"))

    def state(self) -> list[dict[str, Any]]:
        """Everything that ended, for the checkpoint."""
        return [
            {"occurrence": list(o), **_ending(e), "retries": e.retries}
            for o, e in sorted(self._entries.items())
            if e.state in ("trained", "dropped")
        ]

    def resume(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Take over the ledger of a checkpoint, and cut the file back to it."""
        entries = [
            (
                Occurrence(*item["occurrence"]),
                Entry(item["state"], item["step"], item.get("reason"), item.get("retries", 0)),
            )
            for item in state
        ]
        self._entries = dict(entries)
        self._ended = Counter(occurrence for occurrence, _ in entries)
        self._counts = Counter({"ledger/duplicates": len(entries) - len(self._entries)})
        for entry in self._entries.values():
            self._count(entry, +1)
        with whole_file(self._path) as file:
            for occurrence, entry in sorted(self._entries.items(), key=lambda pair: (pair[1].step, pair[0])):
                file.write(_line(occurrence, _ending(entry)))

    def _count(self, entry: Entry, change: int) -> None:
        self._counts["ledger/retried"] += change * entry.retries
        if entry.state == "trained":
            self._counts["ledger/trained"] += change
        elif entry.state == "dropped":
            self._counts[f"ledger/dropped/{entry.reason}"] += change

    def _append(self, occurrence: Occurrence, ending: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(occurrence, ending))


def _ending(entry: Entry) -> dict[str, Any]:
    reason = {"reason": entry.reason} if entry.reason else {}
    return {"state": entry.state, "step": entry.step, **reason}


def _line(occurrence: Occurrence, ending: Mapping[str, Any]) -> str:
    return json.dumps({"epoch": occurrence.epoch, "index": occurrence.index, **ending}) + "\n"
