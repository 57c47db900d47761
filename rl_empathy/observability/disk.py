"""Writing to disk: whole or not at all, and what the disk says in our words."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import TextIO

from rl_empathy.errors import RunDirectoryError


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Write a file that takes its name when the block has ended well, readable by its owner only.

    A kill or an error leaves the old content or the new, which is on disk before the block is left. What UTF-8 has no
    bytes for, such as half an emoji, is written as an escape.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # what a kill has left
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Replace the content of a file; see `whole_file`."""
    with whole_file(path) as file:
        file.write(text)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that takes its name when the block has ended well; otherwise nothing changes.

    A folder of that name makes way; who has its files open keeps them. Every file is on disk before it does.
    """
    temporary, old = (path.with_name(f"{path.name}.{end}") for end in ("tmp", "old"))

    def undo() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)

    undo()  # what a kill has left
    shutil.rmtree(old, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for written in [*temporary.rglob("*"), temporary]:
            sync(written)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        sync(path.parent)
    except BaseException:
        undo()
        raise
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say in our words what the disk said."""
    try:
        yield
    except OSError as error:
        what = f"run directory {path}: {error.strerror} ({error.filename or path})"
        if error.errno in (ENOSPC, EDQUOT):
            existing = next(folder for folder in (path, *path.parents) if folder.exists())
            free = shutil.disk_usage(existing).free >> 20
            advice = f"{free} MiB are free there; make room, then start the run again: it goes on"
        else:
            advice = "set run.directory to a folder that you may write"
        raise RunDirectoryError(f"{what}; {advice}") from error
