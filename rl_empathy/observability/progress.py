"""What one sees of a run: progress and messages on stderr; stdout is left to results.

On a terminal one live line, under the messages:

    grpo 12/40  reward/mean 1.23  policy/loss -0.012  tokens/trained_per_s 812  staleness/max 1  4 min left

Elsewhere the same line now and then, and the last one of every stage.
"""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Self, TextIO, TypeGuard

from rich.console import Console
from rich.live import Live
from rich.text import Text

_SHOWN = ("reward/mean", "tokens/trained_per_s", "staleness/max")
_LOSS = "/loss"
WAITING_S = 30.0
"""Seconds between two lines that say what is waited for, where there is no terminal."""


class Progress:
    """A sink of `MetricsLog`, and the voice of the driver; use as a context manager."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            stream: Where to write; stderr when left out.
            every_s: Seconds between two lines where there is no terminal.
            clock: Seconds, from anywhere.
        """
        self._stream = stream or sys.stderr
        self._every_s, self._clock = every_s, clock
        self._live: Live | None = None
        self._stage: _Stage | None = None
        self._waiting = ""
        self._printed_at: float | None = None
        self._is_printed = True

    def __enter__(self) -> Self:
        if self._stream.isatty():
            self._live = Live(
                console=Console(file=self._stream),
                get_renderable=self._live_line,
                refresh_per_second=2,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is None:
            self._print_last()
        else:
            self._live.stop()
            self._live = None

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Take a line of metrics; a stage that nobody announced begins with its first line."""
        name = str(line.get("stage", ""))
        if self._stage is None or self._stage.name != name:
            self._begin(name, num_steps=None)
        assert self._stage is not None
        self._stage.add(line, self._clock())
        self._waiting = ""
        self._is_printed = False
        if not self._refreshed() and self._is_due(self._every_s):
            self._print_last()

    def stage_started(self, stage: str, *, num_steps: int | None) -> None:
        """Say that a stage begins; `num_steps` is the number of its last step, where it is known."""
        self._begin(stage, num_steps=num_steps)
        self.message(f"{stage}: starts" + (f", {num_steps:,} steps" if num_steps else ""))

    def stage_finished(self, stage: str, summary: str) -> None:
        """Print the stage's last line, and what came of it."""
        self._print_last()
        took = f" in {_duration(self._clock() - self._stage.started)}" if self._stage else ""
        self._stage = None
        self.message(f"{stage}: done{took}" + (f", {summary}" if summary else ""))

    def message(self, text: str) -> None:
        self._waiting = ""
        self._print(text)

    def warning(self, text: str) -> None:
        self._print(f"warning: {text}", style="yellow")

    def waiting(self, text: str) -> None:
        """Say what is waited for; called as often as one likes."""
        self._waiting = text
        if not self._refreshed() and self._is_due(WAITING_S):
            self._print(f"waiting for {text}")

    def _begin(self, name: str, *, num_steps: int | None) -> None:
        self._print_last()
        self._stage = _Stage(name, num_steps=num_steps, started=self._clock())
        self._printed_at = None

    def _refreshed(self) -> bool:
        """Show the live line as it is now, where there is one."""
        if self._live is not None:
            self._live.refresh()
        return self._live is not None

    def _is_due(self, every_s: float) -> bool:
        return self._printed_at is None or self._clock() - self._printed_at >= every_s

    def _print_last(self) -> None:
        if self._stage is not None and not self._is_printed:
            self._print(self._stage.text())
        self._is_printed = True

    def _print(self, text: str, style: str | None = None) -> None:
        self._printed_at = self._clock()
        try:
            if self._live is not None:
                self._live.console.print(Text(text, style=style or ""), soft_wrap=True)
            else:
                print(text, file=self._stream, flush=True)
        except (OSError, ValueError):  # the terminal or the pipe is closed: the run goes on unseen
            self._live = None

    def _live_line(self) -> Text:
        stage = [self._stage.text()] if self._stage else []
        waiting = [f"waiting for {self._waiting}"] if self._waiting else []
        return Text("  ".join([*stage, *waiting]), style="cyan", no_wrap=True, overflow="ellipsis")


class _Stage:
    """What is known of the stage under way."""

    def __init__(self, name: str, *, num_steps: int | None, started: float) -> None:
        self.name, self.num_steps, self.started = name, num_steps, started
        self._values: dict[str, Any] = {}
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] | None = None

    def add(self, line: Mapping[str, Any], now: float) -> None:
        self._values.update(line)
        if isinstance(step := line.get("step"), int):
            self._last = (step, now)
            self._first = self._first or self._last

    def text(self) -> str:
        of = "" if self.num_steps is None else f"/{self.num_steps}"
        step = "" if self._last is None else f" {self._last[0]}{of}"
        losses = [name for name in self._values if name.endswith(_LOSS)]
        known = {name: self._values.get(name) for name in (_SHOWN[0], *losses, *_SHOWN[1:])}
        numbers = [f"{name} {_number(value)}" for name, value in known.items() if _is_number(value)]
        return "  ".join([f"{self.name}{step}", *numbers, *self._left()])

    def _left(self) -> list[str]:
        """Time left at the pace since the stage's first line; two lines are needed for a pace."""
        if not self.num_steps or not self._first or not self._last or self._last[0] <= self._first[0]:
            return []
        pace = (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])
        remaining = self.num_steps - self._last[0]
        return [f"{_duration(pace * remaining)} left"] if remaining > 0 else []


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
