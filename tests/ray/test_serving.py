"""The served endpoint as clients see it: `python -m rl_empathy.serve`, real Ray Serve, real vLLM, a tiny model."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil
import pytest
import yaml

from rl_empathy.config.sections import ServeConfig
from rl_empathy.data.risk import SAFE_REPLY
from rl_empathy.errors import ConfigError, ModelError, ResourceError
from rl_empathy.schema import CHAIN_OF_EMPATHY
from rl_empathy.serving import serve
from rl_empathy.serving.schemas import MAX_BODY_BYTES
from tests.privacy import open_doors, session_of
from tests.tiny_models import make_parrot_model

pytestmark = pytest.mark.slow

SCHEMA = CHAIN_OF_EMPATHY.model_copy(update={"name": "unbroken", "between": ""})
ANSWER = "NOP\u2028\x85 焦"
"""With two characters that readers take for ends of lines, and that JSON does not escape by itself."""
SPANS = {"L1": "abc", "L2": "def", "L3": "ghi", "L4": "jkl", "answer": ANSWER}
REASONING = "abc\ndef\nghi\njkl"
SECRET = "canary-4711"
START_S = 400.0


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    output: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def curl(self, *options: str, path: str = "/v1/chat/completions", sent: object = None) -> str:
        """What curl prints: headers, an empty line, the body."""
        text = sent if isinstance(sent, str) else json.dumps(sent)
        post = ["-H", "Content-Type: application/json", "--data-binary", "@-"] if sent is not None else []
        command = ["curl", "-sSN", "-i", "--noproxy", "*", "-m", "60", *options, *post, self.url + path]
        run = subprocess.run(command, input=text, capture_output=True, text=True, timeout=90, check=True)
        return run.stdout.replace("\r\n", "\n")

    def status_and_body(self, sent: object) -> tuple[int, dict[str, object]]:
        head, _, body = self.curl(sent=sent).rpartition("\n\n")
        return int(head.split("HTTP/1.1 ")[-1].split()[0]), json.loads(body)

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def question(text: str = "I feel lost at work.", **changes: object) -> dict[str, object]:
    return {"model": "parrot", "messages": [{"role": "user", "content": text}], **changes}


def command(run: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "rl_empathy.serve", str(run), "--port", str(port), "--show-reasoning"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose model writes one completion, whatever it is asked."""
    folder = tmp_path_factory.mktemp("a parrot 鹦鹉")
    make_parrot_model(folder / "model", SCHEMA.render(SPANS), schema=SCHEMA)
    config = {
        "run": {"name": "parrot"},
        "model": {"path": str(folder / "model")},
        "schema": SCHEMA.model_dump(),
        "cluster": {"address": "local"},
        "serve": {"start_s": START_S},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    return folder


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Server]:
    port, output = free_port(), run / "output"
    with output.open("w") as file:
        process = subprocess.Popen(command(run, port), stdout=file, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + START_S + 30
    while "Serving" not in output.read_text() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert "Serving" in output.read_text(), output.read_text()
    yield Server(process, port, output)
    process.terminate()
    process.wait(timeout=60)


def test_curl_gets_a_whole_reply(server: Server) -> None:
    head, _, body = server.curl(sent=question()).partition("\n\n")
    reply = json.loads(body)
    assert "x-notice: AI, not a clinician." in head
    assert reply["object"] == "chat.completion"
    assert reply["choices"][0]["message"] == {
        "role": "assistant",
        "content": ANSWER,
        "reasoning": REASONING,
    }
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["metadata"]["schema_valid"] is True
    assert reply["metadata"]["notice"].startswith("AI, not a clinician.")
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_curl_gets_a_streamed_reply(server: Server) -> None:
    head, _, body = server.curl(sent=question(stream=True)).partition("\n\n")
    events = [line.removeprefix("data: ") for line in body.splitlines() if line]  # as httpx cuts lines
    chunks = [json.loads(event) for event in events[:-1]]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "content-type: text/event-stream" in head
    assert events[-1] == "[DONE]"
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == ANSWER
    assert "".join(delta.get("reasoning", "") for delta in deltas) == REASONING
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[-2:]] == [None, "stop"]
    assert chunks[-1]["metadata"]["schema_valid"] is True
    assert chunks[-1]["usage"]["completion_tokens"] > 0


def test_a_limit_counts_the_tokens_that_are_read_and_not_the_reasoning(server: Server) -> None:
    messages = [{"role": "user", "content": "hi"}]
    reply = server.client().chat.completions.create(model="parrot", messages=messages, max_tokens=2)
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].message.content == "NO"  # the parrot writes a token a character
    usage = reply.usage
    assert usage.completion_tokens - usage.completion_tokens_details.reasoning_tokens == 2
    assert reply.to_dict()["metadata"]["schema_valid"] is False


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_that_names_acute_risk_gets_the_safe_reply_and_says_so(
    server: Server, stream: bool
) -> None:
    said = ["I want to kill myself tonight", "and now?"]
    messages = [{"role": "user", "content": said[0]}, {"role": "assistant", "content": "I see."}]
    messages += [{"role": "user", "content": said[1]}]
    head, _, body = server.curl(sent=question(messages=messages, stream=stream)).partition("\n\n")
    assert "x-safe-reply: acute_risk" in head
    if stream:
        events = [line.removeprefix("data: ") for line in body.split("\n") if line]
        chunks = [json.loads(event) for event in events[:-1]]  # the last one is [DONE]
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    else:
        chunks = [json.loads(body)]
        text = chunks[0]["choices"][0]["message"]["content"]
    assert text == SAFE_REPLY["en"]
    assert chunks[-1]["metadata"]["safe_reply"] == "acute_risk"


def test_openai_client_gets_a_streamed_reply(server: Server) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "我很累"}]}]
    stream = server.client().chat.completions.create(
        model="parrot",
        messages=messages,
        stream=True,
        temperature=1,
        seed=7,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens > 0
    assert chunks[-1].to_dict()["metadata"]["notice"].startswith("AI, not a clinician.")


def test_models_and_health(server: Server) -> None:
    assert [model.id for model in server.client().models.list()] == ["parrot"]
    for path in ("/health", "/healthz"):
        head, _, body = server.curl(path=path).partition("\n\n")
        assert (head.split()[1], body) == ("204", "")


def test_a_long_post_is_answered_although_the_longest_reply_would_not_fit(server: Server) -> None:
    most = ServeConfig().max_completion_tokens  # 512 of the 1,024 tokens of the context
    status, body = server.status_and_body(question("x" * 600))
    assert status == 200
    assert body["usage"]["prompt_tokens"] > 1024 - most
    assert body["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param("{not json " + SECRET, 400, id="not json"),
        pytest.param(question(messages=[{"role": "wizard", "content": SECRET}]), 400, id="wrong role"),
        pytest.param(question(messages=[{"role": "system", "content": SECRET}]), 400, id="system message"),
        pytest.param(question(SECRET, n=2), 400, id="n is 2"),
        pytest.param(question(SECRET, tools=[{"type": "function"}]), 400, id="tools"),
        pytest.param(question(SECRET, seed="9"), 400, id="wrong type"),
        pytest.param(json.dumps(question(SECRET + "\ud83d")), 400, id="half an emoji"),
        pytest.param(json.dumps(question(SECRET + "\0", stream=True)), 400, id="NUL"),
        pytest.param(json.dumps(question(SECRET))[:-1] + ', "seed": ' + "9" * 5000 + "}", 400, id="huge"),
        pytest.param('{"messages": ' + "[" * 60_000 + "]" * 60_000 + "}", 400, id="deeply nested"),
        pytest.param(question(f"{SECRET} 累" * 900), 400, id="longer than the context"),
        pytest.param(
            question(f"{SECRET} 累" * 900, stream=True), 400, id="longer than the context, streamed"
        ),
        pytest.param(question(SECRET * MAX_BODY_BYTES), 413, id="longer than the limit"),
        pytest.param(question(SECRET, model=SECRET), 404, id="unknown model"),
    ],
)
def test_bad_requests_are_refused_in_openai_shape_without_an_echo(
    server: Server, sent: object, status: int
) -> None:
    got, body = server.status_and_body(sent)
    assert got == status
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert SECRET not in json.dumps(body)


def test_the_server_listens_on_loopback_only(server: Server) -> None:
    assert open_doors(psutil.Process(server.process.pid)) == set()
    assert session_of(server.process.pid).parents[1].stat().st_mode & 0o077 == 0


def test_unknown_routes_have_openai_shape(server: Server) -> None:
    with pytest.raises(openai.NotFoundError):
        server.client().embeddings.create(model="parrot", input="x")


def test_port_in_use_exits_3_before_anything_starts(server: Server, run: Path) -> None:
    second = subprocess.run(command(run, server.port), capture_output=True, text=True, timeout=60)
    assert second.returncode == 3
    assert str(server.port) in second.stderr
    assert server.curl(path="/healthz").split()[1] == "204"


def test_serve_refuses_what_it_cannot_serve(tmp_path: Path) -> None:
    open_to_all = ServeConfig().model_copy(update={"host": "0.0.0.0"})
    rest = {"schema": SCHEMA, "language": "en", "model_name": "m", "system_prompt": "", "temperature": 1.0}
    with pytest.raises(ConfigError, match="loopback"):
        serve(tmp_path, open_to_all, **rest)
    with pytest.raises(ModelError, match="not the folder"):
        serve(tmp_path, ServeConfig(), **rest)
    with pytest.raises(ConfigError, match=r"serve\.system_message is take"):
        serve(tmp_path, ServeConfig(system_message="take"), **rest | {"system_prompt": "Be kind."})
    (tmp_path / "config.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ResourceError, match=f"port {port} "):
            serve(tmp_path, ServeConfig(port=port), **rest)


def test_sigterm_stops_gracefully_and_nothing_stays_behind(server: Server) -> None:
    """Last: it ends the server of this module."""
    logs = session_of(server.process.pid) / "logs"
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert any("EngineCore" in " ".join(child.cmdline()) for child in children)
    started = time.monotonic()
    os.kill(server.process.pid, signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0
    assert time.monotonic() - started < 20
    _, alive = psutil.wait_procs(children, timeout=10)
    assert [child.name() for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    output = server.output.read_text()
    assert "AI, not a clinician." in output
    assert "Traceback" not in output
    written = [
        path for path in logs.rglob("*") if path.is_file() and SECRET in path.read_text(errors="replace")
    ]
    assert written == []  # what was said is in no log
