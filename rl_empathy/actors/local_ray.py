"""Ray on this machine, started for this process: privately, and from an environment whose path may hold a space."""

import os
import shlex
import sys
from typing import Any

import ray

from rl_empathy.errors import ResourceError


def start_local_ray(num_cpus: int, *, logging_level: int) -> Any:
    """Start a cluster of this machine and connect to it.

    Args:
        num_cpus: Logical CPUs.
        logging_level: Of Ray's own messages.

    Returns:
        Ray's context.

    Raises:
        ResourceError: It did not start.
    """
    # Ray hands the interpreter's path to a shell as it is: one with a space in it has to come quoted.
    quoted = shlex.quote(sys.executable)
    mask = os.umask(0o077)  # Ray writes its token, its logs and what it spills with the plain umask
    try:
        return ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging_level,
            runtime_env={"py_executable": quoted} if quoted != sys.executable else None,
        )
    except Exception as error:  # Ray raises a plain one when its 30 s pass
        raise ResourceError(
            f"Ray did not start on this machine: {error} Its logs: session_latest/logs in RAY_TMPDIR or /tmp/ray. "
            "Where other work keeps the machine busy, start again when it is done"
        ) from error
    finally:
        os.umask(mask)
