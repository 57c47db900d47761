"""An event loop whose clock jumps: a run that would take hours takes as long as its computing."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class Deadlock(Exception):
    """Nothing is left that could ever wake the program up."""


class _JumpingSelector(selectors.SelectSelector):
    """Does not wait: tells the loop how long it would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Deadlock(f"everything waits for ever, at {self.now:.1f} s")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its `time()` is virtual seconds since its start."""

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run_virtually(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end on a virtual clock.

    Raises:
        Deadlock: It waits for something that cannot come.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
