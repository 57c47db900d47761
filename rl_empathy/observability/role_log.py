"""One log file a role: `logs/attempt_01/<role>.log`, which only its owner may read."""

import logging
import os
from pathlib import Path

from rl_empathy.observability.memory import MEMORY
from rl_empathy.observability.private_files import keep_files_private


def divert_output(path: str) -> None:
    """Send everything this process prints or logs to a file, C++ libraries included; and watch what memory it holds.

    Whatever else the process writes from here on is for its owner only, too.

    Args:
        path: The file; appended to.
    """
    keep_files_private()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    MEMORY.begin()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
