import io
import os
import pty
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest

from rl_empathy.observability.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class ClosedPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def all_of(terminal: int) -> Iterator[str]:
    """Everything that was written to a pseudo-terminal whose other end is closed."""
    with suppress(OSError):
        while text := os.read(terminal, 4096):
            yield text.decode()


def make_line(step: int, metrics: Mapping[str, Any] | None = None, *, stage: str = "grpo") -> dict[str, Any]:
    return {"stage": stage, "step": step, "time": 0.0, **(metrics or {})}


def test_lines_are_five_seconds_apart_and_the_last_of_a_stage_is_printed() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(stream, clock=clock) as progress:
        for step in range(13):
            clock.now = step
            progress(make_line(step))
        progress.stage_finished("grpo", "")
    steps = [line.split()[1] for line in stream.getvalue().splitlines()[:-1]]
    assert steps == ["0", "5", "10", "12"]


def test_a_line_shows_step_metrics_and_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock=clock)
    progress.stage_started("grpo", num_steps=40)
    speed = {"tokens/trained_per_s": 1812.4, "staleness/max": 1, "x": 9}
    progress(make_line(10))
    clock.now = 60
    progress(make_line(12, {"reward/mean": 1.2345, "policy/loss": -0.0123, **speed}))
    assert stream.getvalue().splitlines()[-1] == (  # 30 s a step, 28 steps to go
        "grpo 12/40  reward/mean 1.23  policy/loss -0.0123  "
        "tokens/trained_per_s 1,812  staleness/max 1  14 min left"
    )


def test_the_loss_of_any_stage_is_shown() -> None:
    stream = io.StringIO()
    Progress(stream)(make_line(1, {"sft/loss": 2.5}, stage="sft"))
    assert stream.getvalue() == "sft 1  sft/loss 2.5\n"


@pytest.mark.parametrize("line", [{}, {"stage": "sft"}, {"step": 3}, make_line(1, {"reward/mean": None})])
def test_missing_metrics_do_no_harm(line: dict[str, Any]) -> None:
    with Progress(io.StringIO()) as progress:
        progress(line)


def test_a_stage_ends_with_its_duration_and_summary() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock=clock)
    progress.stage_started("sft", num_steps=None)
    clock.now = 192
    progress.stage_finished("sft", "loss 0.5")
    assert stream.getvalue().splitlines() == ["sft: starts", "sft: done in 3 min, loss 0.5"]


def test_a_new_stage_prints_the_last_line_of_the_one_before() -> None:
    stream = io.StringIO()
    progress = Progress(stream, clock=Clock())
    for step in (1, 2, 3):
        progress(make_line(step, stage="sft"))
    progress(make_line(1))
    assert stream.getvalue().splitlines() == ["sft 1", "sft 3", "grpo 1"]


def test_leaving_prints_the_last_line() -> None:
    stream = io.StringIO()
    with Progress(stream, clock=Clock()) as progress:
        progress(make_line(1))
        progress(make_line(2))
    assert stream.getvalue().splitlines() == ["grpo 1", "grpo 2"]


def test_waiting_is_said_now_and_then() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock=clock)
    for second in range(48):
        clock.now = second
        progress.waiting(f"rollout worker 0 ({second} s)")
    assert stream.getvalue().splitlines() == [
        "waiting for rollout worker 0 (0 s)",
        "waiting for rollout worker 0 (30 s)",
    ]


def test_messages_and_warnings_are_printed_as_they_are() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.message("resumes [bold]run[/bold]")
    progress.warning("worker 2 is gone")
    assert stream.getvalue() == "resumes [bold]run[/bold]\nwarning: worker 2 is gone\n"


def test_a_closed_pipe_does_not_end_the_run() -> None:
    with Progress(ClosedPipe()) as progress:
        progress(make_line(1))
        progress.message("still here")


def test_a_terminal_shows_a_live_line_and_keeps_messages_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal, Progress(terminal) as progress:
        progress.stage_started("grpo", num_steps=40)
        progress(make_line(12, {"reward/mean": 1.5}))
        progress.message("checkpoint [of] step 12")
        progress.waiting("groups")
    shown = "".join(all_of(master))
    os.close(master)
    assert "grpo: starts, 40 steps" in shown
    assert "checkpoint [of] step 12" in shown
    assert "grpo 12/40  reward/mean 1.5" in shown
    assert "waiting for groups" in shown
