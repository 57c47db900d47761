import json

import pytest

from rl_empathy.schema import CHAIN_OF_EMPATHY, PLAIN
from rl_empathy.serving.policy_server import read_events
from rl_empathy.serving.reply import Piece, Reply
from rl_empathy.serving.schemas import ApiError, event, read_request

SPANS = {"L1": "sad", "L2": "alone", "L3": "wants comfort", "L4": "listen", "answer": "I hear you."}
COMPLETION = CHAIN_OF_EMPATHY.render(SPANS)
SECRET = "canary-4711"


def make_reply(
    text, *, show_reasoning=False, schema=CHAIN_OF_EMPATHY, finish_reason="stop", step=3, most=500, others=500
):
    """A finished reply whose text came in tokens of `step` characters, and its deltas."""
    reply = Reply(
        schema,
        show_reasoning=show_reasoning,
        notice="AI, not a clinician.",
        max_answer_tokens=most,
        max_other_tokens=others,
    )
    pieces = [Piece(text=text[i : i + step], tokens=1) for i in range(0, len(text), step)]
    deltas = []
    for piece in [*pieces, Piece(finish_reason=finish_reason)]:
        if not reply.is_over:
            deltas += reply.feed(piece)
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


@pytest.mark.parametrize("before", ["\n\n", "\n \u2028 "])
def test_space_before_the_answer_takes_nothing_of_what_the_reader_may_have(before):
    text = COMPLETION.replace("I hear you.", f"{before}I hear you.")
    reply, _ = make_reply(text, step=1, most=4)
    assert (reply.message["content"], reply.finish_reason) == ("I he", "length")


def test_a_first_character_of_several_tokens_counts_once():
    reply = Reply(
        CHAIN_OF_EMPATHY, show_reasoning=False, notice="", max_answer_tokens=1, max_other_tokens=500
    )
    for text in ("<answer>", "", "", "\U0001f600"):  # the engine gives its text with the last token
        reply.feed(Piece(text=text, tokens=1))
    assert reply.message["content"] == "\U0001f600"


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
        (body(messages=[{"role": "user", "content": [{"type": "text", "text": 5}]}]), "invalid_value"),
        (body(messages=[{"role": "user", "content": SECRET + "\0"}]), "invalid_value"),
        (body(messages={"0": SECRET}), "invalid_value"),
        (body(messages=[SECRET]), "invalid_value"),
        (body(stream="yes"), "invalid_value"),
        (body(max_tokens="5"), "invalid_value"),
        (body(max_tokens=True), "invalid_value"),
        (body(temperature=True), "invalid_value"),
        (body(seed=-1), "invalid_value"),
        (rb'{"messages": [{"role": "user", "content": "canary-4711 \ud83d"}]}', "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "canary-4711 \xed\xa0\xbd"}]}', "invalid_json"),
        (body()[:-1] + b', "seed": ' + b"9" * 5000 + b"}", "invalid_json"),
        (body()[:-1] + b', "temperature": NaN}', "invalid_json"),
        (body(messages=[{"role": "user", "content": "x", "a " + SECRET: 1}]), "unsupported_parameter"),
        (body(temperature=SECRET), "invalid_value"),
        (body(max_tokens=0), "invalid_value"),
    ],
)
def test_bad_requests_are_refused_without_an_echo(sent, code):
    with pytest.raises(ApiError) as refused:
        read_request(sent, model_name="m")
    assert refused.value.code == code
    assert SECRET not in json.dumps(refused.value.body())


@pytest.mark.parametrize(
    "asked",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "auto"},
        {"functions": []},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"top_logprobs": 2},
        {"n": 2},
        {"n": True},
        {"stop": ["."]},
        {"presence_penalty": 0.5},
        {"frequency_penalty": -1},
        {"logit_bias": {"5": 1}},
        {"top_k": 5},
        {"guided_json": {}},
        {"temprature": 1},
    ],
)
def test_a_key_that_would_have_no_effect_is_refused_by_name_and_the_error_lists_those_that_have_one(asked):
    with pytest.raises(ApiError) as refused:
        read_request(body(**asked), model_name="m")
    (key,) = asked
    assert (refused.value.status, refused.value.code, refused.value.param) == (
        400,
        "unsupported_parameter",
        key,
    )
    assert refused.value.message.startswith(f"{key}: not supported")
    assert "messages, stream, stream_options, max_tokens" in refused.value.message


def test_what_other_clients_send_without_asking_for_anything_is_no_error():
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    earlier = {"role": "assistant", "content": "hi", "reasoning": "sad", "refusal": None, "tool_calls": None}
    request = read_request(
        body(
            messages=[{"role": "user", "content": "hi"}, earlier, {"role": "user", "content": parts}],
            store=False,
            n=1,
            stop=None,
            tools=[],
            presence_penalty=0.0,
            logprobs=False,
            max_tokens=900,
        ),
        model_name="m",
    )
    assert request.messages[2].content == "hello"
    assert (request.answer_limit(512), request.answer_limit(1000)) == (512, 900)


def test_a_system_message_is_taken_only_where_the_key_says_so_and_only_first():
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}
    taken = read_request(body(messages=[system, user]), model_name="m", system_message="take")
    assert [message.role for message in taken.messages] == ["system", "user"]
    with pytest.raises(ApiError, match=r"serve\.system_message: take"):
        read_request(body(messages=[system, user]), model_name="m")
    with pytest.raises(ApiError, match="comes first"):
        read_request(body(messages=[user, system, user]), model_name="m", system_message="take")


@pytest.mark.parametrize(
    ("said", "at_risk"), [("I want to kill myself tonight", True), ("我想自杀", True), ("hi", False)]
)
def test_risk_is_seen_in_every_message_of_the_user_and_in_no_other(said, at_risk):
    first, reply, last = (
        {"role": r, "content": c} for r, c in [("user", said), ("assistant", "ok"), ("user", "now?")]
    )
    assert read_request(body(messages=[first, reply, last]), model_name="m").speaks_of_risk is at_risk
    quoted = {"role": "assistant", "content": said}
    assert not read_request(body(messages=[quoted, last]), model_name="m").speaks_of_risk


ENDS_OF_LINES = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\rj\nk"


def test_no_character_of_a_reply_cuts_an_event_for_a_reader_that_knows_more_ends_of_lines_than_the_standard():
    (line,) = [line for line in event({"content": ENDS_OF_LINES}).decode().splitlines() if line]
    assert json.loads(line.removeprefix("data: ")) == {"content": ENDS_OF_LINES}
    assert "焦".encode() in event({"content": "焦"}), "what is no end of a line stays readable"


def test_no_character_of_a_reply_cuts_an_event_of_the_engine():
    choice = {"text": ENDS_OF_LINES, "token_ids": [7], "finish_reason": None}
    sent = f"data: {json.dumps({'choices': [choice]}, ensure_ascii=False)}\n\ndata: [DONE]\n\n"
    assert read_events(sent, str) == [Piece(text=ENDS_OF_LINES, tokens=1)]


def test_tokens_that_came_together_are_told_apart_where_their_texts_join():
    words = {1: "I ", 2: "hear", 3: "\ufffd", 4: "\ufffd"}
    choice = {"text": "I hear", "token_ids": [1, 2], "finish_reason": "stop"}
    half = {"text": "é", "token_ids": [3, 4]}
    sent = "".join(f"data: {json.dumps({'choices': [c]})}\n\n" for c in (choice, half))
    assert read_events(sent, lambda ids: "".join(words[i] for i in ids)) == [
        Piece(text="I ", tokens=1),
        Piece(text="hear", tokens=1),
        Piece(finish_reason="stop"),
        Piece(text="é", tokens=2),
    ]


def test_the_limit_counts_the_tokens_of_the_answer_only():
    whole, _ = make_reply(COMPLETION, step=1, most=len("I hear you."))
    assert (whole.message["content"], whole.finish_reason) == ("I hear you.", "stop")
    assert whole.end["usage"]["completion_tokens"] == len(COMPLETION)
    assert whole.end["usage"]["completion_tokens_details"]["reasoning_tokens"] == len(COMPLETION) - 11
    cut, deltas = make_reply(COMPLETION, step=1, most=4)
    assert (cut.message["content"], cut.finish_reason) == ("I he", "length")
    assert "".join(part["content"] for part in deltas) == "I he"
    assert cut.end["metadata"]["schema_valid"] is False


@pytest.mark.parametrize("schema", [PLAIN, CHAIN_OF_EMPATHY])
def test_a_completion_without_delimiters_is_cut_at_the_same_limit(schema):
    reply, _ = make_reply("I hear you.", step=1, most=4, schema=schema)
    assert (reply.message["content"], reply.finish_reason) == ("I he", "length")


def test_reasoning_that_never_ends_is_cut_at_its_own_limit_and_gives_no_answer():
    reply, _ = make_reply("<empathy_think><L1>" + "sad " * 100, step=1, others=30)
    assert not reply.has_answer
    assert reply.finish_reason == "length"
    assert reply.end["usage"]["completion_tokens"] == 31


@pytest.mark.parametrize("answer", ["❤️", "我", "…", "e\u0301"])
def test_an_answer_that_a_reader_sees_is_one(answer):
    reply, _ = make_reply(COMPLETION.replace("I hear you.", answer))
    assert reply.has_answer


@pytest.mark.parametrize(
    "answer",
    ["", " ", "\u200b", "\u2028\u00ad", "\u3164", "\u115f\u1160", "\ufe0f", "\u2800\u2800", "\u0301"],
)
def test_an_answer_of_nothing_that_a_reader_sees_is_none(answer):
    reply, _ = make_reply(COMPLETION.replace("I hear you.", answer))
    assert not reply.has_answer


def test_a_second_attempt_begins_with_nothing_and_costs_both():
    reply, _ = make_reply("<empathy_think><L1>sad", step=1)
    reply.begin()
    for mark in COMPLETION:
        reply.feed(Piece(text=mark, tokens=1))
    reply.close()
    assert reply.message["content"] == "I hear you."
    assert reply.end["metadata"]["attempts"] == 2
    assert reply.end["usage"]["completion_tokens"] == 22 + len(COMPLETION)


@pytest.mark.parametrize(
    ("changes", "supported"),
    [
        ({"stream_options": {"include_obfuscation": False}}, "supported here: include_usage"),
        ({"messages": [{"role": "user", "content": "hi", "name": "x"}]}, "supported here: role, content"),
        ({"tools": [{}]}, "supported here: model, messages"),
    ],
)
def test_what_is_supported_is_told_of_the_object_that_has_the_key(changes, supported):
    with pytest.raises(ApiError) as raised:
        read_request(body(**changes), model_name="m")
    assert supported in raised.value.message


def test_of_two_limits_the_smaller_one_holds():
    for limits in (
        {"max_tokens": 5, "max_completion_tokens": 7},
        {"max_tokens": 7, "max_completion_tokens": 5},
    ):
        assert read_request(body(**limits), model_name="m").answer_limit(512) == 5
