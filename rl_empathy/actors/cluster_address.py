"""What `cluster.address` means, for training and for serving."""

import os
import socket
from typing import Any

from rl_empathy.errors import ResourceError

LISTENS_S = 3.0
"""A cluster answers its door within this."""


def is_local(address: str) -> bool:
    """Whether an address means a new cluster of this machine.

    A cluster that merely runs here, started with `ray start`, may be somebody else's: it is joined by its address.

    Args:
        address: local, always; auto, unless RAY_ADDRESS names a cluster, as it does in a Ray job; or an address.
    """
    return address == "local" or (address == "auto" and not os.environ.get("RAY_ADDRESS"))


def require_open(address: str) -> None:
    """Look whether anybody listens at an address host:port: Ray itself would try for a minute.

    Raises:
        ResourceError: Nobody does.
    """
    place = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = place.rpartition(":")
    if not host or "://" in place or not port.isdecimal():
        return  # another way to name a cluster, which Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=LISTENS_S).close()
    except OSError as error:
        raise ResourceError(
            f"no Ray cluster listens at {place}: {error}; start it, name another one in cluster.address, or set "
            "cluster.address: local"
        ) from error


def join_ray(address: str, *, logging_level: int) -> Any:
    """Connect to a cluster that runs.

    Args:
        address: Not a local one, see `is_local`.
        logging_level: Level of Ray's own messages.

    Returns:
        Ray's context.

    Raises:
        ResourceError: Nobody answers there, it is no address, or Ray, Python or token are not those of the cluster.
    """
    import ray  # --check wants to know what an address means, and no Ray
    from ray.exceptions import RayError

    try:
        return ray.init(address=address, log_to_driver=False, logging_level=logging_level)
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        raise ResourceError(
            f"the Ray cluster at cluster.address {address} "
            f"(RAY_ADDRESS {os.environ.get('RAY_ADDRESS', 'not set')}) cannot be joined: {error}"
        ) from error
