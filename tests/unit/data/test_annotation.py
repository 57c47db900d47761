"""Teachers and whole files: concurrent, patient, resumable; what fails is set aside with its reason."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rl_empathy.cli import main
from rl_empathy.data.annotation import AnnotationSummary, Rejected, annotate, annotate_file
from rl_empathy.data.loading import OnRisk
from rl_empathy.data.risk import SAFE_REPLY
from rl_empathy.data.rows import row_from_dict, write_rows
from rl_empathy.data.teachers import TemplateTeacher
from rl_empathy.errors import ConfigError, DataError, ModelError
from rl_empathy.judging.chat_client import ChatSettings
from rl_empathy.schema import CHAIN_OF_EMPATHY, THINK_ANSWER, OutputSchema
from rl_empathy.types import Message, Reference, Row, Trace
from tests.chat_server import Answer, Behave, ChatServer, chat_servers, reply

GOOD = CHAIN_OF_EMPATHY.render(
    {"L1": "sad", "L2": "loss", "L3": "comfort", "L4": "listen", "answer": "as given"}
)
Serve = Callable[[Behave], ChatServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with chat_servers(about=lambda text: text.split("\n")[1]) as start:  # the post
        yield start


def make_rows(count: int) -> list[Row]:
    return [
        Row(
            id=f"r{i}",
            messages=(Message(role="user", content=f"post {i}"),),
            references=(Reference(text="I see."),),
        )
        for i in range(count)
    ]


def run(
    folder: Path,
    url: str,
    rows: list[Row],
    schema: OutputSchema = CHAIN_OF_EMPATHY,
    on_risk: OnRisk = "exclude",
    **patience: Any,
) -> AnnotationSummary:
    write_rows(folder / "in.jsonl", rows)
    settings = ChatSettings(base_url=url, model="big", back_off_s=0.001, timeout_s=20)
    return annotate_file(
        str(folder / "in.jsonl"),
        folder / "out.jsonl",
        language="en",
        teacher="openai",
        schema=schema,
        settings=replace(settings, **patience),
        concurrency=3,
        on_risk=on_risk,
    )


def read_back(path: Path) -> list[Row]:
    return [row_from_dict(json.loads(line), "out") for line in path.read_text().splitlines()]


def test_rows_come_back_in_order_with_traces_that_name_their_teacher(tmp_path: Path, serve: Serve) -> None:
    server = serve(lambda post, n: reply(GOOD))

    summary = run(tmp_path, server.url, make_rows(7))

    rows = read_back(tmp_path / "out.jsonl")
    assert [row.id for row in rows] == [f"r{i}" for i in range(7)]
    assert {row.trace and row.trace.teacher for row in rows} == {"openai:big"}
    assert rows[0].trace is not None
    assert dict(rows[0].trace.spans) == {"L1": "sad", "L2": "loss", "L3": "comfort", "L4": "listen"}
    assert (summary.num_annotated, summary.num_rejected, summary.rejected) == (7, 0, None)
    assert server.most <= 3


def test_calls_run_at_the_same_time(tmp_path: Path, serve: Serve) -> None:
    meeting = threading.Barrier(3, timeout=10)

    def wait_for_the_others(post: str, n: int) -> Answer:
        meeting.wait()
        return reply(GOOD)

    run(tmp_path, serve(wait_for_the_others).url, make_rows(3))


@pytest.mark.parametrize(
    "failure", [(503, "busy"), (429, "slow down"), (200, "not json"), (200, {"choices": []})]
)
def test_a_passing_failure_is_waited_out(tmp_path: Path, serve: Serve, failure: Answer) -> None:
    server = serve(lambda post, n: failure if n < 3 else reply(GOOD))

    summary = run(tmp_path, server.url, make_rows(4))

    assert summary.num_annotated == 4
    assert set(server.calls.values()) == {3}


def test_a_reply_that_does_not_parse_is_asked_again_and_then_set_aside_with_the_reason(
    tmp_path: Path, serve: Serve
) -> None:
    def behave(post: str, n: int) -> Answer:
        stubborn = post == "post 1"
        return reply(GOOD.replace("<L2>loss</L2>", "") if stubborn or n == 1 else GOOD)

    server = serve(behave)

    summary = run(tmp_path, server.url, make_rows(3))

    assert [row.id for row in read_back(tmp_path / "out.jsonl")] == ["r0", "r2"]
    assert summary.rejected is not None
    (aside,) = [json.loads(line) for line in summary.rejected.read_text().splitlines()]
    assert (aside["id"], aside["reason"]) == (
        "r1",
        "3 replies did not parse as chain_of_empathy; the last: missing",
    )
    assert (server.calls["post 0"], server.calls["post 1"]) == (2, 3)


def test_a_second_run_asks_only_for_what_is_missing(tmp_path: Path, serve: Serve) -> None:
    run(tmp_path, serve(lambda post, n: reply("no form" if post == "post 1" else GOOD)).url, make_rows(4))
    server = serve(lambda post, n: reply(GOOD))

    summary = run(tmp_path, server.url, make_rows(4))

    assert dict(server.calls) == {"post 1": 1}
    assert (summary.num_annotated, summary.num_cached, summary.rejected) == (4, 3, None)
    assert not (tmp_path / "out.jsonl.rejected.jsonl").exists()


def test_a_killed_run_goes_on_from_its_cache(tmp_path: Path, serve: Serve) -> None:
    reached = threading.Event()
    release = threading.Event()

    def hang_after_four(post: str, n: int) -> Answer:
        if int(post.split()[1]) >= 4:
            reached.set()
            release.wait(30)
        return reply(GOOD)

    first = serve(hang_after_four)
    write_rows(tmp_path / "in.jsonl", make_rows(8))
    program = (
        "import sys; from pathlib import Path\n"
        "from rl_empathy.data.annotation import annotate_file\n"
        "from rl_empathy.schema import CHAIN_OF_EMPATHY\n"
        "annotate_file(sys.argv[1], Path(sys.argv[2]), language='en', teacher='openai',\n"
        "              schema=CHAIN_OF_EMPATHY, base_url=sys.argv[3], model='big', concurrency=1)\n"
    )
    arguments = [str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), first.url]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], env=environment, stderr=subprocess.DEVNULL
    )
    assert reached.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    release.set()
    with (tmp_path / "out.jsonl.cache.jsonl").open("a") as cache:
        cache.write('{"key": "cut sho')  # as a kill in the midst of a write leaves it
    second = serve(lambda post, n: reply(GOOD))

    summary = run(tmp_path, second.url, make_rows(8))

    assert sorted(second.calls) == [f"post {i}" for i in range(4, 8)]
    assert (summary.num_annotated, summary.num_cached) == (8, 4)


def test_ctrl_c_says_that_the_run_can_go_on_and_keeps_the_replies(tmp_path: Path, serve: Serve) -> None:
    reached, release = threading.Event(), threading.Event()

    def hang_at_the_second(post: str, n: int) -> Answer:
        if post == "post 1":
            reached.set()
            release.wait(30)
        return reply(GOOD)

    server = serve(hang_at_the_second)
    write_rows(tmp_path / "in.jsonl", make_rows(2))
    program = (
        # Started in the background of a script, the tests themselves ignore Ctrl-C, and so would their children.
        "import signal, sys; from pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from rl_empathy.data.annotation import annotate_file\n"
        "from rl_empathy.errors import Stopped\n"
        "from rl_empathy.schema import CHAIN_OF_EMPATHY\n"
        "try:\n"
        "    annotate_file(sys.argv[1], Path(sys.argv[2]), language='en', teacher='openai',\n"
        "                  schema=CHAIN_OF_EMPATHY, base_url=sys.argv[3], model='big', concurrency=1)\n"
        "except Stopped as error:\n"
        "    sys.exit(error.exit_code)\n"
    )
    arguments = [str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), server.url]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], env=environment, stderr=subprocess.DEVNULL
    )
    assert reached.wait(60)
    process.send_signal(signal.SIGINT)
    code = process.wait(30)
    release.set()

    assert code == 75
    assert not (tmp_path / "out.jsonl").exists()
    assert '"reply"' in (tmp_path / "out.jsonl.cache.jsonl").read_text()


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_that_no_waiting_mends_stops_at_once_without_the_key(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-very-secret")
    server = serve(lambda post, n: (status, "bad key sk-very-secret"))

    with pytest.raises(ModelError, match=rf"HTTP {status} .*TEACHER_KEY") as caught:
        run(tmp_path, server.url, make_rows(20), api_key_name="TEACHER_KEY")

    assert "sk-very-secret" not in str(caught.value)
    assert server.keys == {"Bearer sk-very-secret"}
    assert sum(server.calls.values()) <= 6
    assert not any("sk-very-secret" in path.read_text() for path in tmp_path.iterdir())


def test_a_row_that_the_server_refuses_is_set_aside_and_the_others_go_on(
    tmp_path: Path, serve: Serve
) -> None:
    server = serve(lambda post, n: (400, "context too long") if post == "post 0" else reply(GOOD))

    summary = run(tmp_path, server.url, make_rows(3))

    assert (summary.num_annotated, summary.num_rejected, server.calls["post 0"]) == (2, 1, 1)


def test_a_server_that_stays_away_stops_the_run_instead_of_setting_everything_aside(
    tmp_path: Path, serve: Serve
) -> None:
    server = serve(lambda post, n: (503, "down"))

    with pytest.raises(ModelError, match=r"gave no reply in 2 calls.*HTTP 503.*run again"):
        run(tmp_path, server.url, make_rows(50), num_calls=2, max_failures=4)

    assert sum(server.calls.values()) < 50
    assert not (tmp_path / "out.jsonl").exists()


def test_a_call_that_never_ends_is_given_up_at_its_deadline(tmp_path: Path, serve: Serve) -> None:
    release = threading.Event()
    server = serve(lambda post, n: (release.wait(30), reply(GOOD))[1])
    begun = time.monotonic()

    summary = run(tmp_path, server.url, make_rows(1), num_calls=2, timeout_s=0.2)
    release.set()

    assert summary.num_rejected == 1
    assert "ReadTimeout" in (tmp_path / "out.jsonl.rejected.jsonl").read_text()
    assert time.monotonic() - begun < 15


def test_a_missing_key_is_named_by_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)

    with pytest.raises(ConfigError, match="TEACHER_KEY"):
        run(tmp_path, "http://127.0.0.1:9/v1", make_rows(1), api_key_name="TEACHER_KEY")


@pytest.mark.parametrize("url", ["localhost:8000/v1", "http://", "http://host:port/v1"])
def test_a_base_url_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        run(tmp_path, url, make_rows(1))


def test_when_no_reply_is_accepted_the_command_fails_with_the_commonest_reason(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda post, _: (422, "no") if post.endswith("7") else reply("no form"))
    write_rows(tmp_path / "in.jsonl", make_rows(20))
    files = [str(tmp_path / name) for name in ("in.jsonl", "out.jsonl")]
    monkeypatch.setattr(
        "sys.argv", ["rl-empathy", *files, "--teacher", "openai", "--base-url", server.url, "--model", "big"]
    )

    with pytest.raises(SystemExit) as caught:
        main("annotate")

    assert caught.value.code == 4
    texts = capsys.readouterr()
    assert "no usable trace for any of 20 rows" in texts.err
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "out.jsonl.rejected.jsonl").open()]
    ((commonest, count),) = Counter(reasons).most_common(1)
    assert (count, len(reasons)) == (18, 20)
    assert commonest in " ".join(texts.err.split())


RISK = Row(
    id="risk",
    messages=(Message(role="user", content="I want to die."),),
    references=(Reference(text="Have you tried yoga?"),),
)


@pytest.mark.parametrize(
    ("on_risk", "asked", "answer"),
    [("keep", 1, "Have you tried yoga?"), ("exclude", 0, None), ("template", 0, SAFE_REPLY["en"])],
)
def test_a_row_of_acute_risk_is_treated_before_a_teacher_sees_it(
    tmp_path: Path, serve: Serve, on_risk: OnRisk, asked: int, answer: str | None
) -> None:
    server = serve(lambda *_: reply(GOOD))

    summary = run(tmp_path, server.url, [*make_rows(2), RISK], on_risk=on_risk)

    assert server.calls["I want to die."] == asked
    texts = {row.id: row.references[0].text for row in read_back(tmp_path / "out.jsonl")}
    assert texts.get("risk") == answer
    counts = (summary.num_annotated, summary.num_already_annotated, summary.num_rejected)
    risks = (summary.num_risk_excluded, summary.num_risk_templated)
    assert (summary.num_rows, *counts) == (3, 2 + asked, 0, 0)
    assert risks == (int(on_risk == "exclude"), int(on_risk == "template"))


def test_a_reply_with_half_an_emoji_is_asked_again_and_never_written(tmp_path: Path, serve: Serve) -> None:
    bad = json.dumps({"choices": [{"message": {"content": GOOD.replace("sad", "sad \ud83d")}}]})
    deep = "[" * 100_000
    server = serve(lambda _, n: (200, bad) if n == 1 else (200, deep) if n == 2 else reply(GOOD))

    summary = run(tmp_path, server.url, make_rows(2))

    assert summary.num_annotated == 2
    assert "ud83d" not in (tmp_path / "out.jsonl").read_text()
    assert len(read_back(tmp_path / "out.jsonl")) == 2


def test_a_reply_with_a_mark_that_ends_lines_elsewhere_is_read_from_the_cache(
    tmp_path: Path, serve: Serve
) -> None:
    server = serve(lambda post, n: reply(GOOD.replace("as given", "as\u2028given")))
    summaries = [run(tmp_path, server.url, make_rows(2)) for _ in range(2)]
    assert [summary.num_cached for summary in summaries] == [0, 2]
    assert sum(server.calls.values()) == 2


def test_what_is_written_is_for_its_owner_only(tmp_path: Path, serve: Serve) -> None:
    server = serve(lambda post, n: (400, "too long") if post == "post 0" else reply(GOOD))
    run(tmp_path, server.url, make_rows(2))
    written = sorted(tmp_path.glob("out.jsonl*"))
    assert [path.name.removeprefix("out.jsonl") for path in written] == [
        "",
        ".cache.jsonl",
        ".rejected.jsonl",
    ]
    assert [oct(path.stat().st_mode)[-3:] for path in written] == ["600"] * 3


def test_rows_that_have_a_trace_keep_it(tmp_path: Path) -> None:
    trace = Trace(spans={"L1": "mine"}, teacher="author")
    rows = [replace(row, trace=trace) if row.id == "r0" else row for row in make_rows(2)]
    write_rows(tmp_path / "in.jsonl", rows)

    summary = annotate_file(
        str(tmp_path / "in.jsonl"),
        tmp_path / "out.jsonl",
        language="en",
        teacher="template",
        schema=CHAIN_OF_EMPATHY,
    )

    assert [row.trace and row.trace.teacher for row in read_back(tmp_path / "out.jsonl")] == [
        "author",
        "template",
    ]
    assert (summary.num_rows, summary.num_annotated, summary.num_already_annotated) == (2, 1, 1)


def test_the_template_teacher_refuses_a_schema_that_it_cannot_write(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", make_rows(1))

    with pytest.raises(ConfigError, match="schema think_answer has think"):
        annotate_file(
            str(tmp_path / "in.jsonl"),
            tmp_path / "o.jsonl",
            language="en",
            teacher="template",
            schema=THINK_ANSWER,
        )


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", make_rows(1))

    with pytest.raises(DataError, match="is the input itself"):
        annotate_file(
            str(tmp_path / "in.jsonl"),
            tmp_path / "in.jsonl",
            language="en",
            teacher="template",
            schema=CHAIN_OF_EMPATHY,
        )


def test_a_row_in_another_language_is_annotated_in_that_language() -> None:
    row = replace(make_rows(1)[0], metadata={"language": "zh"})

    (made,) = asyncio.run(annotate([row], TemplateTeacher(language="en"), concurrency=1))

    assert not isinstance(made, Rejected)
    assert made.trace is not None
    assert (
        "感受" in made.trace.spans["L4"]
        or "心情" in made.trace.spans["L4"]
        or "先说出" in made.trace.spans["L4"]
    )
