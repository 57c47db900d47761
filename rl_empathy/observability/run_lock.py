"""One living run a directory: a lock that ends with its process, however that ends."""

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any, Self

from rl_empathy.errors import RunDirectoryError


class RunLock:
    """Holds `.lock` of a run directory; the kernel lets go when the process is gone: none is ever stale."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, folder: Path) -> Self:
        """Lock a folder.

        Raises:
            RunDirectoryError: A living run holds it; the text names its process and host.
            OSError: The file system has no locks, or the folder cannot be written.
        """
        path = folder / ".lock"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_same_file(descriptor, path):
                    os.ftruncate(descriptor, 0)
                    holder = {"pid": os.getpid(), "host": socket.gethostname()}
                    os.pwrite(descriptor, json.dumps(holder).encode(), 0)
                    return cls(descriptor)
            except BlockingIOError:
                holder = _read_holder(descriptor)
                os.close(descriptor)
                raise RunDirectoryError(_taken_text(folder, holder)) from None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # another process set the folder aside meanwhile: look again

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _read_holder(descriptor: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}  # it is just being written
    return holder if isinstance(holder, dict) else {}


def _taken_text(folder: Path, holder: dict[str, Any]) -> str:
    pid, host = holder.get("pid", "?"), holder.get("host", "?")
    return (
        f"a living run holds {folder}: process {pid} on host {host}. Wait until it ends, stop it "
        f"(kill {pid} on {host}; it writes a checkpoint first), or start this one under another run.name"
    )
