"""A server that answers chat completions as a test says."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, object]
"""Status, and a body: text as it is, anything else as JSON."""
Behave = Callable[[str, int], Answer]


def reply(text: str) -> Answer:
    return 200, {"choices": [{"message": {"content": text}}]}


class ChatServer(ThreadingHTTPServer):
    """Answers the n-th call about a text as `behave(text, n)` says; counts calls and the most at one time."""

    daemon_threads = True

    def __init__(self, behave: Behave, about: Callable[[str], str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave, self.about, self.lock = behave, about, threading.Lock()
        self.calls, self.keys, self.now, self.most = Counter[str](), set[str](), 0, 0

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent about clients that were killed or gave up."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        text = server.about(body["messages"][-1]["content"])
        with server.lock:
            server.calls[text] += 1
            server.keys.add(self.headers.get("authorization", ""))
            count, server.now = server.calls[text], server.now + 1
            server.most = max(server.most, server.now)
        status, answer = server.behave(text, count)
        with server.lock:
            server.now -= 1
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def chat_servers(about: Callable[[str], str] = str) -> Iterator[Callable[[Behave], ChatServer]]:
    """Starts servers, each as it is to behave, and ends them all.

    Args:
        about: What of a message's text a call is about.
    """
    servers: list[ChatServer] = []

    def start(behave: Behave) -> ChatServer:
        servers.append(ChatServer(behave, about))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
