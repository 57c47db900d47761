"""Asked to stop: SIGTERM and Ctrl-C become an event that the loop looks at where it can save."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import psutil

T = TypeVar("T")


class StopSignal:
    """Set once; everything that waits with `unless_set` then ends at once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def listen(self, heard: Callable[[], None]) -> None:
        """Let SIGTERM and SIGINT set it, until `unlisten`; a second signal ends the process as usual.

        Args:
            heard: Called at the first signal, to tell the user.
        """
        loop = asyncio.get_running_loop()

        def first_signal() -> None:
            self.set()
            self.unlisten()
            heard()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, first_signal)

    def unlisten(self) -> None:
        """Give the signals back."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)

    async def unless_set(self, work: Coroutine[Any, Any, T], *, cancel: bool = True) -> T | None:
        """Do the work, or cancel it and return None as soon as the signal is set; not begun when it already is.

        Args:
            work: What to do.
            cancel: False lets work that has begun come to its end, whatever the signal.
        """
        if self.is_set:
            work.close()
            return None
        if not cancel:
            return await work
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            stopped.cancel()


def end_at_once() -> NoReturn:
    """End this process as Ctrl-C does, and what it has started.

    Not through `ray.shutdown`: a thread that calls Ray after it (of Ray Train, whose process may hang) would end this
    process with another exit code.
    """
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)


async def on_a_thread(work: Callable[[], T]) -> T:
    """Do work that blocks; a second signal ends the process all the same, which a thread of asyncio's would hold up."""
    done: Future[T] = Future()

    def run() -> None:
        done.set_running_or_notify_cancel()
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(done)
