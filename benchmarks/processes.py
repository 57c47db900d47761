"""Memory of processes, as the benchmarks count it. Not a benchmark itself."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

EVERY_S = 2.0


class Peak:
    """The most memory that a process and everything below it held; shared pages are divided among users (PSS)."""

    gib = 0.0


@contextmanager
def peak_memory(pid: int) -> Iterator[Peak]:
    """Watch a process and everything below it as long as the context lasts."""
    peak, ended = Peak(), threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY_S):
            peak.gib = max(peak.gib, sum(map(_pss_bytes, _family(pid))) / 2**30)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _pss_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:  # it ended in between
        return 0
