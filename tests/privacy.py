"""What others on the machine or the network could reach of a process: where it listens, and what they may read."""

import ipaddress
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


def open_doors(process: psutil.Process) -> set[str]:
    """Where a process and its children listen beyond this machine: "name address:port", IPv4 and IPv6.

    A bound UDP socket that is connected to nobody takes packets from anybody, so it counts too.
    """
    doors = set()
    for member in [process, *_children(process)]:
        try:
            name, sockets = member.name(), member.net_connections(kind="inet")
        except psutil.Error:  # it has ended
            continue
        for entry in sockets:
            listens = entry.status == psutil.CONN_LISTEN or (
                entry.status == psutil.CONN_NONE and not entry.raddr
            )
            if entry.laddr and listens and not _is_loopback(entry.laddr.ip):
                doors.add(f"{name} {entry.laddr.ip}:{entry.laddr.port}")
    return doors


@contextmanager
def watched(pid: int, found: set[str], every_s: float = 0.5) -> Iterator[None]:
    """Collect the open doors of a process and its children for as long as the block runs."""
    process, done = psutil.Process(pid), threading.Event()

    def watch() -> None:
        while not done.wait(every_s):
            found.update(open_doors(process))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def readable_by_others(folder: Path) -> list[str]:
    """Files and folders at or below a folder that have any right for group or others, with their modes."""
    found = []
    for path in [folder, *folder.rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        if not path.is_symlink() and mode & 0o077:
            found.append(f"{mode:o} {path.relative_to(folder)}")
    return sorted(found)


def session_of(pid: int) -> Path:
    """The folder of the Ray session that a process started; its name ends in the process's id."""
    (session,) = Path(f"/tmp/rl_empathy-{os.getuid()}/ray").glob(f"session_*_{pid}")
    return session


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback
