"""Our row format: strict in, equal out, whole or absent on disk."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_empathy.data.rows import row_from_dict, row_to_dict, write_rows
from rl_empathy.errors import DataError
from rl_empathy.types import Message, Reference, Row, Trace

TEXTS = st.text(min_size=1, max_size=30).filter(str.strip)
ROWS = st.builds(
    Row,
    id=TEXTS,
    messages=st.lists(
        st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=TEXTS), max_size=3
    ).flatmap(lambda ms: TEXTS.map(lambda text: (*ms, Message(role="user", content=text)))),
    references=st.lists(st.builds(Reference, text=TEXTS, votes=st.none() | st.integers()), max_size=3).map(
        tuple
    ),
    trace=st.none() | st.builds(Trace, spans=st.dictionaries(TEXTS, TEXTS, max_size=4), teacher=TEXTS),
    metadata=st.dictionaries(TEXTS, st.text(max_size=10), max_size=3),
)


@given(ROWS)
def test_a_row_survives_being_written_and_read(row: Row) -> None:
    written = json.loads(json.dumps(row_to_dict(row)))

    assert row_from_dict(written, "file:1") == row


def test_context_before_a_single_user_message_is_kept() -> None:
    messages = [
        {"role": "assistant", "content": "How are you?"},
        {"role": "user", "content": "Not well."},
    ]

    row = row_from_dict({"id": "a", "messages": messages}, "file:1")

    assert [m.role for m in row.messages] == ["assistant", "user"]
    assert row.post == "Not well."


def test_a_lone_system_message_is_not_mistaken_for_a_prompt() -> None:
    with pytest.raises(DataError, match="the last message must be the user's"):
        row_from_dict({"id": "a", "messages": [{"role": "system", "content": "Be kind."}]}, "file:1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 7}, r"rows.jsonl:3: id: must be a text that is not empty, got 7"),
        ({"prompt": "  "}, r"rows.jsonl:3: prompt: must be a text that is not empty"),
        ({"promt": "x"}, r'rows.jsonl:3: row: unknown key "promt"; did you mean `prompt`\?'),
        ({"references": "text"}, r"rows.jsonl:3: references: must be a list"),
        ({"references": [{"text": ""}]}, r"rows.jsonl:3: references\[0\].text: must be a text"),
        ({"references": [{"text": "x", "votes": "9"}]}, r"references\[0\].votes: must be a whole number"),
        ({"references": [{"text": "x", "votes": True}]}, r"references\[0\].votes: must be a whole number"),
        ({"references": ["x"]}, r"references\[0\]: must be an object"),
        ({"trace": {"teacher": "me", "spans": {"L1": ""}}}, r"trace.spans.L1: must be a text"),
        ({"metadata": {"topic": None}}, r"metadata.topic: must be text, a number or a boolean"),
        ({"messages": []}, r"give exactly one of prompt and messages"),
    ],
)
def test_a_wrong_row_is_named_by_place_field_and_value(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        row_from_dict({"id": "a", "prompt": "I feel low.", **change}, "rows.jsonl:3")


@pytest.mark.parametrize(
    "last", [{"role": "assistant", "content": "Hello"}, {"role": "doctor", "content": "Hello"}]
)
def test_a_conversation_ends_with_the_user(last: dict[str, str]) -> None:
    with pytest.raises(
        DataError, match=r"the last message must be the user's|must be system, user or assistant"
    ):
        row_from_dict({"id": "a", "messages": [{"role": "user", "content": "Hi"}, last]}, "file:1")


def test_an_error_never_shows_a_whole_private_text() -> None:
    secret = "my own story " * 20

    with pytest.raises(DataError) as caught:
        row_from_dict({"id": "a", "prompt": "x", "references": [{"text": "x", "votes": secret}]}, "file:1")

    assert secret[:30] in str(caught.value)
    assert secret[:45] not in str(caught.value)


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = Row(id="a", messages=(Message(role="user", content="Hi"),))
    write_rows(path, [row])
    before = path.read_bytes()

    def broken() -> object:
        yield row
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        write_rows(path, broken())  # type: ignore[arg-type]

    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
