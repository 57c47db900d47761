"""Writing to disk: whole or not at all, and what the disk says in our words."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path

from rl_empathy.errors import RunDirectoryError


def write_durably(path: Path, text: str) -> None:
    """Replace a file so that a kill leaves the old or the new content, on disk before this returns."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
