"""A worker's metrics on their way to the driver: one JSON object a step, appended there and followed here."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def append_note(path: Path, note: str) -> None:
    """Leave a sentence for the user in the file that holds the metrics."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"note": note}) + "\n")


def append_report(path: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Leave the metrics of a step for whoever follows the file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **metrics}) + "\n")


class Follower:
    """Reads a file that grows, or is yet to come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def new(self) -> Iterator[dict[str, Any]]:
        """The reports that are whole by now and were not given before."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._position += len(line)
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:  # torn by a kill, and gone on in by the next worker
                    continue
