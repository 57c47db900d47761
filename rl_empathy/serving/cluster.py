"""The Ray cluster that serves, joined or started, left as it was found; its port; the signals that end the serving."""

import contextlib
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rl_empathy.errors import ResourceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The Ray cluster that serves."""

    is_ours: bool
    log_folder: str


def check_room(num_cpus: float, num_gpus: float) -> None:
    import ray

    room = ray.cluster_resources()
    for name, wanted in {"CPU": num_cpus, "GPU": num_gpus}.items():
        if wanted > room.get(name, 0):
            raise ResourceError(f"serving wants {wanted:g} {name}; the Ray cluster has {room.get(name, 0):g}")


@contextlib.contextmanager
def reserved_port(host: str, port: int) -> Iterator[None]:
    """Find the port free, and keep a second server from finding it free before this one listens.

    Ray Serve lets several of a user's servers listen on one port, where each gets some of the requests.

    Raises:
        ResourceError: It is in use.
    """
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    with socket.socket(family) as probe, socket.socket(family) as held:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # Ray Serve's proxy binds beside it
        try:
            probe.bind((host, port))
            probe.close()
            held.bind((host, port))
        except OSError as error:
            raise ResourceError(
                f"port {port} on {host} cannot be used ({error.strerror}); stop what listens there, or set serve.port"
            ) from error
        yield


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into an event once Ray is up, until the block ends.

    Before, they end the process at once: the start of Ray takes minutes on a busy machine and looks at no event.
    """
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _catch_signals(stop: threading.Event) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())


@contextlib.contextmanager
def joined_cluster(address: str, num_cpus: float, stop: threading.Event) -> Iterator[Cluster]:
    """Join a Ray cluster or start one; leave as it was found."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    from rl_empathy.actors.cluster_address import is_local, join_ray
    from rl_empathy.actors.local_ray import start_local_ray

    is_ours = is_local(address)
    if is_ours:
        room = max(os.cpu_count() or 1, math.ceil(num_cpus))
        context: Any = start_local_ray(room, logging_level=logging.CRITICAL)
    else:
        context = join_ray(address, logging_level=logging.CRITICAL)
    _catch_signals(stop)  # only now: ray.init puts a handler of its own for SIGTERM
    try:
        yield Cluster(is_ours=is_ours, log_folder=f"{context.address_info['session_dir']}/logs/serve")
    finally:
        ray.shutdown()


def close_grpc_door() -> None:
    """In a replica of a local cluster, before it is ready: keep Ray Serve's server between replicas from listening.

    It takes pickled calls, without a token, from whoever reaches it. Ray Serve 2.60 opens it on every interface and
    has no setting for it; it does not use it, since calls travel as those of actors.
    """
    import ray
    from ray.serve._private import replica

    from rl_empathy.actors.local_ray import LOOPBACK

    if ray.util.get_node_ip_address() == LOOPBACK:
        replica.add_port_to_grpc_server = lambda server, address: 0
