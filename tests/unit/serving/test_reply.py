import json

import pytest

from rl_empathy.schema import CHAIN_OF_EMPATHY, PLAIN
from rl_empathy.serving.reply import Piece, Reply
from rl_empathy.serving.schemas import ApiError, read_request

SPANS = {"L1": "sad", "L2": "alone", "L3": "wants comfort", "L4": "listen", "answer": "I hear you."}
COMPLETION = CHAIN_OF_EMPATHY.render(SPANS)
SECRET = "canary-4711"


def make_reply(text, *, show_reasoning=False, schema=CHAIN_OF_EMPATHY, finish_reason="stop", step=3):
    """A finished reply whose text came in pieces of `step` characters, and its deltas."""
    reply = Reply(schema, show_reasoning=show_reasoning, notice="AI, not a clinician.")
    pieces = [Piece(text=text[i : i + step]) for i in range(0, len(text), step)]
    deltas = [part for piece in [*pieces, Piece(finish_reason=finish_reason)] for part in reply.feed(piece)]
    return reply, [*deltas, *reply.close()]


def body(**changes):
    return json.dumps({"messages": [{"role": "user", "content": "hi"}], **changes}).encode()


def test_reasoning_is_hidden_unless_shown():
    hidden, deltas = make_reply(COMPLETION)
    assert hidden.message == {"role": "assistant", "content": "I hear you."}
    assert "".join(part["content"] for part in deltas) == "I hear you."
    shown, _ = make_reply(COMPLETION, show_reasoning=True)
    assert shown.message["reasoning"] == "sad\nalone\nwants comfort\nlisten"
    assert shown.end["metadata"] == {"notice": "AI, not a clinician.", "schema_valid": True}


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_span_that_is_not_hidden_is_always_shown(step):
    spans = tuple(s.model_copy(update={"hidden": s.name == "L2"}) for s in CHAIN_OF_EMPATHY.spans)
    schema = CHAIN_OF_EMPATHY.model_copy(update={"spans": spans})
    hidden, deltas = make_reply(COMPLETION, schema=schema, step=step)
    assert hidden.message["reasoning"] == "sad\nwants comfort\nlisten"
    assert "".join(part.get("reasoning", "") for part in deltas) == "sad\nwants comfort\nlisten"
    shown, _ = make_reply(COMPLETION, schema=schema, step=step, show_reasoning=True)
    assert shown.message["reasoning"] == "sad\nalone\nwants comfort\nlisten"


def test_completion_without_delimiters_becomes_the_content_and_is_announced():
    reply, deltas = make_reply(" just text ")
    assert (reply.message["content"], deltas) == ("just text", [{"content": "just text"}])
    assert reply.end["metadata"]["schema_valid"] is False
    assert "fallback" in reply.end["metadata"]


def test_completion_cut_off_while_reasoning_shows_nothing_of_it():
    reply, deltas = make_reply("<empathy_think><L1>sad", finish_reason="length")
    assert (reply.message["content"], deltas, reply.finish_reason) == ("", [], "length")
    assert "fallback" not in reply.end["metadata"]


def test_plain_schema_is_streamed_as_it_comes():
    reply, deltas = make_reply("I hear you.", schema=PLAIN)
    assert len(deltas) > 1
    assert reply.end["metadata"] == {"notice": "AI, not a clinician.", "schema_valid": True}


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"{nope " + SECRET.encode(), "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'"canary-4711"', "invalid_value"),
        (body(messages=[]), "invalid_value"),
        (body(messages=[{"role": SECRET, "content": SECRET}]), "invalid_value"),
        (body(messages=[{"role": "user", "content": {SECRET: 1}}]), "invalid_value"),
        (
            body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": SECRET}]}]),
            "invalid_value",
        ),
        (body(messages=[{"role": "assistant", "content": SECRET}]), "invalid_value"),
        (body(messages=[{"role": "system", "content": SECRET}]), "system_message_not_allowed"),
        (body(model=SECRET), "model_not_found"),
        (body(n=2), "invalid_value"),
        (body(temperature=SECRET), "invalid_value"),
        (body(max_tokens=0), "invalid_value"),
    ],
)
def test_bad_requests_are_refused_without_an_echo(sent, code):
    with pytest.raises(ApiError) as refused:
        read_request(sent, model_name="m")
    assert refused.value.code == code
    assert SECRET not in json.dumps(refused.value.body())


def test_fields_of_other_clients_and_text_parts_are_tolerated():
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    request = read_request(
        body(messages=[{"role": "user", "content": parts, "name": "x"}], store=False, n=1, max_tokens=900),
        model_name="m",
    )
    assert request.messages[0].content == "hello"
    assert (request.completion_limit(512), request.completion_limit(1000)) == (512, 900)
