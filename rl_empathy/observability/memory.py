"""Memory: what a process holds, what the machine has, and how one says that it ran out."""

import ctypes
import platform
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from rl_empathy.types import Pulse

GIB = 2**30
MOST_GROWTH = 256 * 2**20
"""Bytes by which a process may grow before it hands back what it has freed."""
LOOK_S = 0.1
"""How often a process looks at what it holds."""
_CONTAINERS = (
    ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Where a container says what it may hold, and what it holds."""
_MONITOR = "running low on memory"
_ON_NODE = re.compile(r"was ([\d.]+)GB(?: used)? / ([\d.]+)GB")
_USER = re.compile(r"^\d+\t([\d.]+)\tray::(\w+)", re.MULTILINE)
_WAYS = re.compile(
    r"(?:CUDA|HIP|XPU|NPU) out of memory\.[^\n]*?(?= Of the allocated memory|\n|$)"
    r"|(?:CUDA|HIP) error: out of memory|(?:CUBLAS|CUDNN)_STATUS_ALLOC_FAILED"
    r"|Cuda failure[^\n]*out of memory[^\n]*"  # NCCL
    r"|No available memory for the cache blocks|Free memory on device[^\n]*is less than desired[^\n]*"  # vLLM
    r"|can't allocate memory: you tried to allocate \d+ bytes"
    r"|^MemoryError\b[^\n]*|std::bad_alloc|\[Errno 12\][^\n]*|unable to mmap[^\n]*Cannot allocate memory[^\n]*",
    re.MULTILINE,
)


def memory_ran_out(error: BaseException) -> str | None:
    """How memory ran out, in a line; None where the error has another cause.

    Args:
        error: Error of CUDA, torch, Python or vLLM; or Ray's: a task raised it, or its monitor ended a process.
    """
    for cause in _causes(error):
        text = str(cause)
        if _MONITOR in text:
            return _told_by_ray(text)
        if found := _WAYS.search(text):
            return first_line(found[0]).rstrip(".")
        if isinstance(cause, MemoryError):
            return f"MemoryError: {first_line(text)}" if text else "MemoryError"
    return None


def first_line(text: str, *, most: int = 300) -> str:
    """The first line that says something, cut where it is long."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= most else f"{line[:most]} …"


class KernelKills:
    """Counts the processes that the kernel of this machine, or its container, ended since memory was full."""

    def __init__(self, root: Path = Path("/")) -> None:
        """What happened before does not count.

        Args:
            root: Root of the file system with /sys and /proc.
        """
        self._root = root
        self._seen = self._count()

    def one_more(self) -> bool:
        """Whether there is one that nobody asked about yet."""
        more = self._count() > self._seen
        self._seen += more
        return more

    def _count(self) -> int:
        """Kills for memory: of the container where it counts them, else of the machine."""
        for name in ("sys/fs/cgroup/memory.events", "sys/fs/cgroup/memory/memory.oom_control", "proc/vmstat"):
            try:
                text = (self._root / name).read_text(encoding="ascii")
            except OSError:
                continue
            if found := re.search(r"^oom_kill (\d+)$", text, re.MULTILINE):
                return int(found[1])
        return 0


class MemoryWatch:
    """The most that this process has held at a time, from when it began to look."""

    def __init__(self) -> None:
        self._peak = 0

    def begin(self) -> None:
        """Look from now on."""
        threading.Thread(target=self._look, name="memory", daemon=True).start()

    @property
    def peak_bytes(self) -> int:
        self._peak = max(self._peak, held_bytes())
        return self._peak

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_S)
            self._peak = max(self._peak, held_bytes())


MEMORY = MemoryWatch()
"""The watch of this process."""


def own_pulse(*, asked_to_go: bool = False) -> Pulse:
    """What an actor answers when it is asked whether it is alive."""
    return Pulse(platform.node(), asked_to_go, held_bytes(), MEMORY.peak_bytes, _gpu_peak_bytes())


def _gpu_peak_bytes() -> int:
    torch: Any = sys.modules.get("torch")  # not imported for this
    if torch is None or not torch.cuda.is_available():
        return 0
    return int(torch.cuda.max_memory_allocated())


def held_bytes() -> int:
    """Memory of this process that it shares with no other, bytes: libraries and Ray's object store are not counted."""
    info = psutil.Process().memory_info()
    return int(info.rss - getattr(info, "shared", 0))


class FreedMemory:
    """Hands what this process has freed back to the machine, where the C library can (glibc).

    The library keeps freed blocks of up to 32 MiB for itself, and rows of ever other lengths leave its heap full of
    holes: the trainer of a model of 135M parameters came to hold 14 GiB within 24 steps, where an update takes 8.
    """

    def __init__(self) -> None:
        self._held = held_bytes()

    def give_back(self) -> None:
        """Do so where the process has grown by `MOST_GROWTH` since: to ask for the memory again takes time."""
        if held_bytes() > self._held + MOST_GROWTH:
            if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
                trim(0)
            self._held = held_bytes()


def machine_bytes(root: Path = Path("/")) -> int:
    """Memory of this machine, or of the container where its limit is lower."""
    limits = [int(psutil.virtual_memory().total)]
    for name, _ in _CONTAINERS:
        try:
            text = (root / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        limits += [int(text)] if text.isdecimal() else []
    return min(limits)


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that this process may still take without anything being swapped or ended."""
    free = [int(psutil.virtual_memory().available)]
    for limit, used in _CONTAINERS:
        try:
            most, now = ((root / name).read_text(encoding="ascii").strip() for name in (limit, used))
        except OSError:
            continue
        free += [int(most) - int(now)] if most.isdecimal() else []
    return max(0, min(free))


def _told_by_ray(text: str) -> str:
    roles = ", ".join(f"{name} {held}" for held, name in _USER.findall(text))
    by = f" ({roles} GB)" if roles else ""
    if found := _ON_NODE.search(text):
        return f"Ray's memory monitor ended it, with {found[1]} of {found[2]} GB of its node in use{by}"
    return f"Ray's memory monitor ended it, since its node ran low on memory{by}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what Ray and Ray Train say that it comes from."""
    if error is None:
        return
    yield error
    inner = [
        getattr(error, "cause", None),
        getattr(error, "health_check_failure", None),
        *(getattr(error, "worker_failures", None) or {}).values(),
        error.__cause__,
    ]
    for cause in inner:
        if isinstance(cause, BaseException) and cause is not error:
            yield from _causes(cause)
