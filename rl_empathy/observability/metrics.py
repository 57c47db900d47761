"""`metrics.jsonl`: one object a step and whoever else wants to see it."""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rl_empathy.observability.disk import write_whole

METRICS = "metrics.jsonl"
Sink = Callable[[Mapping[str, Any]], None]


class MetricsLog:
    """Writes lines and hands each to the sinks (terminal, tracker)."""

    def __init__(self, path: Path, *sinks: Sink) -> None:
        self._path = path
        self._sinks = list(sinks)

    def add_sink(self, sink: Sink) -> None:
        """Let somebody else see every line from now on."""
        self._sinks.append(sink)

    def write(self, stage: str, step: int, *parts: Mapping[str, float]) -> None:
        """Append one line; a number that is not finite is written as null, since JSON has no name for it."""
        values = {key: value for part in parts for key, value in part.items()}
        line = {"stage": stage, "step": step, "time": round(time.time(), 3)} | {
            key: value if math.isfinite(value) else None for key, value in sorted(values.items())
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for sink in self._sinks:
            sink(line)

    def cut_back(self, stage: str, step: int) -> int:
        """Forget the lines of a stage after a step, which a resume will write again.

        Returns:
            Lines forgotten.
        """
        if not self._path.exists():
            return 0
        lines = self._path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        kept = [line for line in lines if _survives(line, stage, step)]
        write_whole(self._path, "".join(f"{line}\n" for line in kept))
        return len(lines) - len(kept)


def _survives(line: str, stage: str, step: int) -> bool:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return False  # torn by a kill in the middle of a write
    return bool(entry["stage"] != stage or entry["step"] <= step)
