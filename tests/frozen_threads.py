"""Single threads of a process that are stopped, while its other threads go on: as a debugger does it (Linux)."""

import ctypes
import os
import time
from pathlib import Path

import psutil

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WAIT_ALL = 0x40000000  # __WALL: for single threads of other processes too


def freeze_threads(process: psutil.Process, name: str) -> list[int]:
    """Stop every thread of a process that has a name; returns their ids. They go on when the caller's process ends.

    A process of which threads are frozen can be ended; the caller has to wait for these threads then, or it stays a
    zombie.

    Raises:
        OSError: The process is not one of the caller's, nor the caller root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    tasks = Path(f"/proc/{process.pid}/task")
    threads = [thread.id for thread in process.threads()]
    threads = [thread for thread in threads if (tasks / str(thread) / "comm").read_text().strip() == name]
    assert threads, f"{process} has no thread {name}"
    for thread in threads:
        for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
            if libc.ptrace(request, thread, None, None):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        os.waitpid(thread, WAIT_ALL)  # it stands now
    return threads


def wait_until_ended(threads: list[int], *, seconds: float) -> None:
    """Wait until the process of frozen threads is ended, which frees them."""
    deadline = time.monotonic() + seconds
    while threads:
        ended, status = os.waitpid(threads[0], WAIT_ALL | os.WNOHANG)
        if ended and not os.WIFSTOPPED(status):
            threads.pop(0)
        assert time.monotonic() < deadline, f"nobody ended the process within {seconds:g} s"
        time.sleep(0.05)
