"""Files as users have them, written here in their published layouts: what becomes of them, and of wrong ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rl_empathy.config.sections import DataConfig
from rl_empathy.data.description import description
from rl_empathy.data.loading import DataSet, load_data
from rl_empathy.errors import DataError
from rl_empathy.types import Row

POSTS = [
    "Post 0: my sister moved abroad in spring and the flat is silent.",
    "Post 1: exams are next week, I read and nothing stays.",
    "Post 2: our dog died and everyone says it was only an animal.",
    "Post 3: the boss laughs whenever I speak in a meeting.",
    "Post 4: he forgot my birthday, which is the third year.",
    "Post 5: since the accident I take the stairs, never a lift.",
    "Post 6: money runs out on the twentieth of every month.",
    "Post 7: mother asks daily when I will marry at last.",
    "Post 8: I retired, and whole mornings pass at the window.",
    "Post 9: the twins sleep in turns and I do not sleep.",
]
REPLIES = [f"That sounds hard. {post[8:]} I would like to hear more of it." for post in POSTS]
PAIRS = list(zip(POSTS, REPLIES, strict=True))


def loaded(path: Path, format: str, **keys: Any) -> DataSet:
    config = {"train": str(path), "format": format, "held_out_prompts": 2, "min_answer_characters": 1}
    return load_data(DataConfig.model_validate(config | keys), seed=0)


def by_post(data: DataSet) -> dict[str, Row]:
    return {row.post: row for row in (*data.train, *data.held_out)}


def pairs_of(data: DataSet) -> list[tuple[str, str]]:
    return sorted((post, row.references[0].text) for post, row in by_post(data).items())


def json_lines(path: Path, objects: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(data) + "\n" for data in objects), encoding="utf-8")
    return path


def test_sharegpt(tmp_path: Path) -> None:
    chats = [[{"from": "human", "value": post}, {"from": "gpt", "value": reply}] for post, reply in PAIRS]
    objects = [{"id": f"chat_{n}", "conversations": chat} for n, chat in enumerate(chats)]
    (tmp_path / "chats.json").write_text(json.dumps(objects))
    data = loaded(tmp_path / "chats.json", "sharegpt")
    assert pairs_of(data) == PAIRS
    assert by_post(data)[POSTS[3]].id == "chat_3"


def test_openai_messages_keep_their_system_message_and_what_came_before(tmp_path: Path) -> None:
    turns = [("system", "Be kind."), ("user", "Hello"), ("assistant", "Hello, what brings you here?")]
    chats = [
        {"messages": [{"role": r, "content": c} for r, c in (*turns, ("user", post), ("assistant", reply))]}
        for post, reply in PAIRS
    ]
    data = loaded(json_lines(tmp_path / "chats.jsonl", chats), "messages")
    row = by_post(data)[POSTS[0]]
    assert [message.role for message in row.messages] == ["system", "user", "assistant", "user"]
    assert row.references[0].text == REPLIES[0]


def test_alpaca_joins_instruction_and_input(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Answer warmly.", "input": post, "output": reply} if n % 2 else
        {"instruction": post, "input": "", "output": reply}
        for n, (post, reply) in enumerate(PAIRS)
    ]  # fmt: skip
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))  # all on one line
    posts = by_post(loaded(tmp_path / "alpaca.json", "alpaca"))
    assert POSTS[0] in posts
    assert f"Answer warmly.\n\n{POSTS[1]}" in posts


def test_columns_may_be_deep_in_a_record(tmp_path: Path) -> None:
    rows = [
        {
            "thread": {"posts": [{"body": post}], "tag": "sleep"},
            "answers": [{"text": reply}, {"text": f"No. {reply}"}],
        }
        for post, reply in PAIRS
    ]
    path = json_lines(tmp_path / "threads.jsonl", rows)
    ways = {"prompt": "thread.posts[0].body", "answer": "answers[].text", "topic": "thread.tag"}
    row = by_post(loaded(path, "columns", columns=ways))[POSTS[4]]
    assert [reference.text for reference in row.references] == [REPLIES[4], f"No. {REPLIES[4]}"]
    assert row.metadata["topic"] == "sleep"
    with pytest.raises(DataError, match=r'there is no field "thread\.posts\[1\]\.body"'):
        loaded(path, "columns", columns=ways | {"prompt": "thread.posts[1].body"})


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"post": POSTS, "reply": REPLIES}), tmp_path / "rows.parquet")
    data = loaded(tmp_path / "rows.parquet", "columns", columns={"prompt": "post", "answer": "reply"})
    assert pairs_of(data) == PAIRS


def test_a_table_as_a_spreadsheet_writes_it_in_europe(tmp_path: Path) -> None:
    lines = ["Frage;Antwort", *(f'"{post} Müde…";"{reply}"' for post, reply in PAIRS)]
    (tmp_path / "table.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
    columns = {"prompt": "Frage", "answer": "Antwort"}
    data = loaded(tmp_path / "table.csv", "columns", columns=columns, encoding="cp1252", delimiter=";")
    assert pairs_of(data) == [(f"{post} Müde…", reply) for post, reply in PAIRS]
    with pytest.raises(DataError, match=r"not UTF-8 .*name its encoding in data.encoding"):
        loaded(tmp_path / "table.csv", "columns", columns=columns, delimiter=";")
    with pytest.raises(DataError, match=r"the columns seem to be parted by ';'; set data.delimiter: ';'"):
        loaded(tmp_path / "table.csv", "columns", columns=columns, encoding="cp1252")


def esconv(post: str, reply: str) -> dict[str, Any]:
    return {
        "experience_type": "Current Experience",
        "emotion_type": "sadness",
        "problem_type": "job crisis",
        "situation": post,
        "dialog": [
            {
                "speaker": "supporter",
                "annotation": {"strategy": "Question"},
                "content": "Hello, what is it?\n",
            },
            {"speaker": "seeker", "annotation": {}, "content": post},
            {"speaker": "seeker", "annotation": {}, "content": "That is all."},
            {"speaker": "supporter", "annotation": {"strategy": "Others"}, "content": reply},
            {"speaker": "seeker", "annotation": {"feedback": "5"}, "content": f"Thank you: {post}"},
            {"speaker": "supporter", "annotation": {"strategy": "Others"}, "content": f"Come again. {reply}"},
        ],
    }


def test_esconv_gives_the_last_reply_or_every_one(tmp_path: Path) -> None:
    path = tmp_path / "ESConv.json"
    path.write_text(json.dumps([esconv(*pair) for pair in PAIRS], indent=1))
    row = by_post(loaded(path, "esconv"))[f"Thank you: {POSTS[2]}"]
    assert [message.role for message in row.messages] == ["assistant", "user", "assistant", "user"]
    assert row.messages[1].content == f"{POSTS[2]}\nThat is all."
    assert row.metadata == {
        "language": "en", "emotion_type": "sadness", "situation": POSTS[2], "topic": "job crisis",
    }  # fmt: skip
    every = loaded(path, "esconv", replies="every")
    assert len(every.train) + len(every.held_out) == 20
    sides = [{row.metadata["situation"] for row in side} for side in (every.train, every.held_out)]
    assert not sides[0] & sides[1], "a conversation and what goes on from it are on one side"


def test_empathetic_dialogues_as_they_are_published(tmp_path: Path) -> None:
    header = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
    lines = [header]
    for number, (post, reply) in enumerate(PAIRS):
        said = [text.replace(",", "_comma_") for text in (post.replace("Post", 'Well, "post'), reply)]
        for turn, text in enumerate(said, start=1):
            lines.append(
                f"hit:{number}_conv:{number},{turn},lonely,A situation_comma_ told,{turn},{text},5|5|5,,,"
            )
    (tmp_path / "train.csv").write_text("\n".join(lines))
    data = loaded(tmp_path / "train.csv", "empathetic_dialogues")
    row = by_post(data)[POSTS[5].replace("Post", 'Well, "post')]
    assert row.references[0].text == REPLIES[5]
    assert (row.id, row.metadata["topic"], row.metadata["situation"]) == (
        "hit:5_conv:5",
        "lonely",
        "A situation, told",
    )


def test_a_folder_of_files_is_one_source(tmp_path: Path) -> None:
    for name, some in (("b.jsonl", PAIRS[:6]), ("a.csv", PAIRS[6:])):
        rows = [{"post": post, "reply": reply} for post, reply in some]
        if name.endswith("csv"):
            table = "".join(f'"{row["post"]}","{row["reply"]}"\n' for row in rows)
            (tmp_path / name).write_text("post,reply\n" + table)
        else:
            json_lines(tmp_path / name, rows)
    (tmp_path / "README.md").write_text("no data")
    data = loaded(tmp_path, "columns", columns={"prompt": "post", "answer": "reply"})
    assert pairs_of(data) == PAIRS
    assert by_post(data)[POSTS[0]].id == "row-b-1"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is a folder without a data file"):
        loaded(tmp_path / "empty", "columns", columns={"prompt": "post"})


def as_rows(path: Path, some: Sequence[tuple[str, str]]) -> Path:
    return json_lines(
        path, [{"id": post[:7], "prompt": post, "references": [{"text": reply}]} for post, reply in some]
    )


def test_a_share_is_held_out(tmp_path: Path) -> None:
    data = loaded(as_rows(tmp_path / "rows.jsonl", PAIRS), "rows", held_out_prompts=0.3)
    assert (len(data.train), len(data.held_out)) == (7, 3)


def test_what_a_held_out_file_has_is_not_trained_on(tmp_path: Path) -> None:
    train = as_rows(tmp_path / "train.jsonl", PAIRS)
    held_out = as_rows(
        tmp_path / "held_out.jsonl", [(POSTS[0], "Another reply to it, of mine."), ("New.", REPLIES[1])]
    )
    data = loaded(train, "rows", held_out=str(held_out))
    assert {row.post for row in data.held_out} == {POSTS[0], "New."}
    assert {row.post for row in data.train} == set(POSTS[2:]), "neither the same post nor the same reply"
    assert data.counts["left_out_beside_held_out"] == 2
    with pytest.raises(DataError, match="beside which 0 of the 10"):
        loaded(train, "rows", held_out=str(train))


def test_the_page_of_a_set_says_what_was_read(tmp_path: Path) -> None:
    page = description(loaded(as_rows(tmp_path / "rows.jsonl", PAIRS), "rows"))
    assert "8 prompts to train on, 2 held out" in page
    assert "  rows read                         10\n" in page
    assert "to train on: 8 prompts, 0 with a conversation\n" in page
    assert "  references of a post        1: 8\n" in page
    assert "an example, row Post " in page
