"""The port of the endpoint, and the one that Ray Serve would open beside it."""

import signal
import socket

import pytest
import ray
from ray.serve._private import replica

from rl_empathy.errors import ResourceError
from rl_empathy.serving.cluster import close_grpc_door, reserved_port, stop_signals


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_port_is_this_servers_from_the_start_and_not_only_once_it_listens() -> None:
    port = free_port()
    with (
        reserved_port("127.0.0.1", port),
        pytest.raises(ResourceError, match=f"port {port} "),
        reserved_port("127.0.0.1", port),
    ):
        pass
    with reserved_port("127.0.0.1", port):
        pass


def test_ray_serve_can_listen_on_the_port_that_is_kept_for_it() -> None:
    port = free_port()
    with reserved_port("127.0.0.1", port), socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as its proxy does
        server.bind(("127.0.0.1", port))
        server.listen()
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert client.getpeername()[1] == port


def test_a_signal_before_ray_is_up_ends_the_process_at_once() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with stop_signals() as stop, pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not stop.is_set()


@pytest.mark.parametrize(("address", "is_closed"), [("127.0.0.1", True), ("10.0.0.7", False)])
def test_ray_serves_door_between_replicas_is_closed_on_a_local_cluster(
    address: str, is_closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Server:
        opened = ""

        def add_insecure_port(self, address: str) -> int:
            self.opened = address
            return 9000

    monkeypatch.setattr(replica, "add_port_to_grpc_server", lambda server, at: server.add_insecure_port(at))
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: address)
    close_grpc_door()
    server = Server()
    port = replica.add_port_to_grpc_server(server, "[::]:0")
    assert (port, server.opened) == ((0, "") if is_closed else (9000, "[::]:0"))
