"""Ray on this machine, started for this process, and from an environment whose path may hold a space.

Nobody else gets at it: it listens on loopback only, and what it writes only its owner may read.
"""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import ray_constants
from tenacity import Retrying, retry_if_exception, stop_after_attempt

from rl_empathy.errors import ResourceError
from rl_empathy.observability.private_files import keep_files_private

LOOPBACK = "127.0.0.1"
TRIES = 3
LATE = "timed out during startup"
"""Of the plain exception that Ray raises when its 30 s, which nothing can change, are over."""
ONCE_MORE = "Ray did not start within its 30 s, since this machine is busy: it is started once more"


def start_local_ray(num_cpus: int, *, logging_level: int) -> Any:
    """Start a cluster of this machine and connect to it.

    Args:
        num_cpus: Logical CPUs.
        logging_level: Level of Ray's own messages.

    Returns:
        Ray's context.

    Raises:
        ResourceError: It did not start.
    """
    # Ray hands the interpreter's path to a shell as it is: one with a space in it has to come quoted.
    quoted = shlex.quote(sys.executable)
    folder = _folder()
    tries = Retrying(
        stop=stop_after_attempt(TRIES),
        retry=retry_if_exception(lambda error: LATE in str(error)),
        before_sleep=lambda _: print(ONCE_MORE, file=sys.stderr),
        reraise=True,
    )
    try:
        return tries(
            _started,
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging_level,
            runtime_env={"py_executable": quoted} if quoted != sys.executable else None,
            _temp_dir=str(folder),
            _system_config={"enable_metrics_collection": False},  # its exporter asks nobody for a token
        )
    except Exception as error:
        raise ResourceError(
            f"Ray did not start on this machine: {error} Its logs: {folder}/session_latest/logs. "
            "Where other work keeps the machine busy, start again when it is done"
        ) from error


def _started(**settings: Any) -> Any:
    """Start Ray, and end what a start that came to nothing has left: Ray itself ends it with this process only."""
    others = _children()
    try:
        with _private():
            return ray.init(**settings)
    except Exception:
        left = _children() - others
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)
        raise


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _folder() -> Path:
    """Where Ray keeps its sessions, logs and sockets among them.

    It lies in a folder of this user alone, since Ray itself lets everybody write in the folders that it makes.
    """
    own = Path(os.environ.get("RAY_TMPDIR") or "/tmp", f"rl_empathy-{os.getuid()}").absolute()
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    if own.stat().st_uid != os.getuid() or own.stat().st_mode & 0o077:
        raise ResourceError(
            f"{own} is to hold Ray's sessions, and others may read it or own it; remove it (rm -r), or set RAY_TMPDIR "
            "to a folder of your own"
        )
    return own / "ray"


@contextmanager
def _private() -> Iterator[None]:
    """What Ray's processes inherit, and with them every worker: a file mask, and an address that nobody else reaches.

    Ray keeps a cluster on loopback by itself on macOS and Windows. That switch is for all systems, but `ray.init` has
    no argument for it, and its argument for the node's address replaces a loopback address by another one.
    """
    interface = next(
        name for name, found in psutil.net_if_addrs().items() if any(a.address == LOOPBACK for a in found)
    )
    wanted = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface, "VLLM_HOST_IP": LOOPBACK}
    before = {name: os.environ.get(name) for name in wanted}
    has_clusters, mask = ray_constants.ENABLE_RAY_CLUSTER, keep_files_private()
    os.environ.update(wanted)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = has_clusters
        os.umask(mask)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
