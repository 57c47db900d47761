"""Every format gives the same kind of rows, and names what it cannot read."""

import json
from pathlib import Path

import pytest

from rl_empathy.config.sections import ColumnsConfig
from rl_empathy.data.formats import counselchat_items, read
from rl_empathy.data.records import Record
from rl_empathy.data.sources import Source, locate
from rl_empathy.errors import DataError
from rl_empathy.types import Row

SHARED = Path(__file__).parents[4] / "shared" / "data"
CSV_HEADER = (
    "questionID,questionTitle,questionText,questionLink,topic,therapistInfo,therapistURL,"
    "answerText,upvotes,views"
)


def make_source(path: Path, text: str, **fields: object) -> Source:
    path.write_text(text, encoding="utf-8")
    return Source(name=str(path), path=path, **fields)  # type: ignore[arg-type]


def split_items(source: Source, format: str) -> tuple[list[Row], list[str]]:
    items = list(read(source, format))
    return [i for i in items if isinstance(i, Row)], [str(i) for i in items if isinstance(i, DataError)]


def test_rows_name_each_bad_line_and_give_the_good_ones(tmp_path: Path) -> None:
    lines = [
        '{"id": "a", "prompt": "One"}',
        "{oops",
        "[1]",
        '{"id": "b", "prompt": ""}',
        "",
        '{"id": "a", "prompt": "x"}',
    ]
    source = make_source(tmp_path / "rows.jsonl", "\n".join(lines) + '\n{"id": "c", "prompt": "Two"}')

    rows, errors = split_items(source, "rows")

    assert [row.id for row in rows] == ["a", "c"]
    assert [error.removeprefix(f"{source.name}:").partition(":")[0] for error in errors] == [
        "2",
        "3",
        "4",
        "6",
    ]
    assert "not JSON" in errors[0]
    assert errors[3].endswith(f'id: "a" is already used at {source.name}:1; ids must differ')


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "a", "prompt": "One"}\n{"id": "b", "prompt": "\xff"}\n')

    rows, errors = split_items(Source(name="rows.jsonl", path=path), "rows")

    assert [row.id for row in rows] == ["a"]
    assert "not UTF-8" in errors[0]
    assert ":2:" in errors[0]


def test_counselchat_orders_answers_by_votes_then_views(tmp_path: Path) -> None:
    answers = [("seen", 1, 50), ("voted", 4, 1), ("little seen", 1, 5)]
    row = {
        "question_id": 7,
        "topic": "grief",
        "title": "How do I go on?",
        "question": "My dog&nbsp;died.",
        "answers": [{"text": t, "upvotes": u, "views": v} for t, u, v in answers],
    }

    rows, errors = split_items(make_source(tmp_path / "c.jsonl", json.dumps(row)), "counselchat")

    assert not errors
    assert rows[0].post == "How do I go on?\nMy dog died."
    assert [(r.text, r.votes) for r in rows[0].references] == [("voted", 4), ("seen", 1), ("little seen", 1)]
    assert (rows[0].id, rows[0].topic, rows[0].metadata["language"]) == ("counselchat-7", "grief", "en")


def test_counselchat_csv_is_grouped_by_question_and_bad_answers_are_named_by_line(tmp_path: Path) -> None:
    text = f"""{CSV_HEADER}
1,Sad?,"I am sad.
Very sad.",u,depression,t,u,<p>You &amp; me.</p><p>Breathe.</p>,1,10
1,Sad?,I am sad.,u,depression,t,u,,0,10
2,Angry,I shout.,u,anger,t,u,Count to ten.,x,10
1,Sad?,I am sad.,u,depression,t,u,Second view.,3,
3,cut
"""
    rows, errors = split_items(make_source(tmp_path / "c.csv", text), "counselchat")

    assert [row.id for row in rows] == ["counselchat-1"]
    assert rows[0].post == "Sad?\nI am sad.\nVery sad."
    assert [r.text for r in rows[0].references] == ["Second view.", "You & me.\n\nBreathe."]
    places = [error.rpartition("c.csv:")[2].split(": ")[:2] for error in errors]
    assert places == [["4", "answerText"], ["5", "upvotes"], ["7", "wanted 10 fields, got 2"]]


def test_the_newer_counselchat_csv_and_the_hub_are_read_alike() -> None:
    data = {
        "questionID": "55a",
        "questionTitle": "Hm",
        "questionText": None,
        "answerText": "Ah.",
        "upvotes": 2,
    }

    newer = list(counselchat_items([Record("f:2", {**data, "topics": "Anxiety"})]))
    hub = list(counselchat_items([Record("hub: row 1", {**data, "topic": "Anxiety", "views": 3})]))

    assert newer == hub
    assert isinstance(newer[0], Row)
    assert newer[0].post == "Hm"


def test_a_title_that_the_post_repeats_is_not_said_twice() -> None:
    data = {"question_id": 1, "title": "Why me?", "question": "Why me? Why now?", "answers": []}

    (row,) = counselchat_items([Record("f:1", data)])

    assert isinstance(row, Row)
    assert row.post == "Why me? Why now?"


def test_smile_takes_turns_only_where_question_or_answer_is_missing(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "我很累"},
        {"role": "assistant", "content": "怎么了？"},
        {"role": "user", "content": "考试"},
        {"role": "assistant", "content": "辛苦了"},
        {"role": "user", "content": "谢谢"},
    ]
    lines = [
        {"id": "1", "question": "我很累", "answer": "抱抱", "turns": turns},
        {"id": "2", "turns": turns},
        {"id": "3"},
    ]
    source = make_source(tmp_path / "s.jsonl", "\n".join(json.dumps(line) for line in lines))

    rows, errors = split_items(source, "smile")

    assert [(len(row.messages), row.references[0].text) for row in rows] == [(1, "抱抱"), (3, "辛苦了")]
    assert "s.jsonl:3: there is no field" in errors[0]
    assert rows[0].metadata["language"] == "zh"


SMILES_OWN = """[
 {"role": "client", "content": "最近总是睡不好。", "annotation": []},
 {"role": "counselor", "content": "能说说晚上都在想什么吗？", "annotation": []},
 {"role": "client", "content": "在想工作，怕做不好。", "annotation": []},
 {"role": "counselor", "content": "怕做不好，说明你很在意。", "annotation": []}
]
"""


def test_smiles_own_files_are_read_one_dialogue_a_file(tmp_path: Path) -> None:
    alone, errors = split_items(make_source(tmp_path / "17.json", SMILES_OWN), "smile")

    (row,) = alone
    assert not errors
    assert row.id == "smile-17"
    assert [m.role for m in row.messages] == ["user", "assistant", "user"]
    assert (row.post, row.references[0].text) == ("在想工作，怕做不好。", "怕做不好，说明你很在意。")


def test_a_folder_of_smiles_own_files_is_read_and_a_damaged_file_is_one_bad_row(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.json").write_text(
            SMILES_OWN.replace("最近", f"最近{number}"), encoding="utf-8"
        )
    (tmp_path / "1.json").write_text(SMILES_OWN[:80], encoding="utf-8")
    (tmp_path / "2.json").write_text(SMILES_OWN.replace("counselor", "robot"), encoding="utf-8")

    rows, errors = split_items(locate(str(tmp_path), language="zh"), "smile")

    assert [row.id for row in rows] == ["smile-0", "smile-3"]
    assert errors[0].startswith(f"{tmp_path}/1.json:3: ")
    assert "2.json: turns.role: must be one of user, assistant, client, counselor" in errors[1]


def test_smiles_roles_are_known_in_lines_of_turns(tmp_path: Path) -> None:
    line = json.dumps({"id": "0", "turns": json.loads(SMILES_OWN)})

    rows, errors = split_items(make_source(tmp_path / "turns.jsonl", line), "smile")

    assert not errors
    assert [m.role for m in rows[0].messages] == ["user", "assistant", "user"]


@pytest.mark.parametrize("topic", [None, float("nan"), "nan", "NaN", "", " "])
def test_a_topic_that_pandas_left_empty_is_no_topic(tmp_path: Path, topic: object) -> None:
    columns = ColumnsConfig(prompt="ask", topic="about")
    chat = {"question_id": 1, "topic": topic, "question": "Why?", "answers": []}
    psyqa = {"questionID": 1, "question": "Why?", "keywords": topic, "answers": []}
    lines = {
        "rows": {"id": "a", "prompt": "Why?", "metadata": {"topic": topic}},
        "columns": {"ask": "Why?", "about": topic},
        "counselchat": chat,
        "psyqa": psyqa,
    }
    if topic is None:
        del lines["rows"]  # our own format is strict
    for format, line in lines.items():
        source = make_source(tmp_path / f"{format}.jsonl", json.dumps(line), columns=columns)
        (row,), errors = split_items(source, format)
        assert (row.topic, errors) == ("", []), format


def test_a_topic_that_is_a_class_number_is_kept(tmp_path: Path) -> None:
    columns = ColumnsConfig(prompt="ask", topic="about")
    source = make_source(tmp_path / "t.jsonl", '{"ask": "Why?", "about": 0}', columns=columns)

    assert split_items(source, "columns")[0][0].topic == "0"


@pytest.mark.parametrize("id", [None, float("nan"), "", [1]])
def test_a_missing_id_is_a_bad_row(tmp_path: Path, id: object) -> None:
    columns = ColumnsConfig(prompt="ask", id="key")
    text = json.dumps({"ask": "Why?", "key": id}) + '\n{"ask": "Who?", "key": 7}'

    rows, errors = split_items(make_source(tmp_path / "t.jsonl", text, columns=columns), "columns")

    assert [row.id for row in rows] == ["7"]
    assert errors[0].startswith(f"{tmp_path}/t.jsonl:1: key: must be a text or a number")


def test_votes_that_pandas_wrote_as_floats_are_whole_numbers() -> None:
    answers = [{"text": "A", "upvotes": 3.0, "views": float("nan")}, {"text": "B", "upvotes": "5.0"}]

    (row,) = counselchat_items([Record("f:1", {"question_id": 1, "question": "Why?", "answers": answers})])

    assert isinstance(row, Row)
    assert [(r.text, r.votes) for r in row.references] == [("B", 5), ("A", 3)]


def test_empathetic_dialogues_commas_are_read_and_its_utterances_are_refused(tmp_path: Path) -> None:
    columns = ColumnsConfig(prompt="prompt", answer="utterance")
    pair = {"prompt": "I was sad_comma_ then angry.", "utterance": "Oh_comma_ I see."}
    line = {"conv_id": "hit:0_conv:1", "utterance_idx": "1", "context": "sad", **pair}
    text = json.dumps(pair) + "\n" + json.dumps(line)

    rows, errors = split_items(make_source(tmp_path / "t.jsonl", text, columns=columns), "columns")

    assert [(row.post, row.references[0].text) for row in rows] == [("I was sad, then angry.", "Oh, I see.")]
    assert "t.jsonl:2: EmpatheticDialogues has one utterance a line" in errors[0]


def test_psyqa_items_are_named_by_their_line_in_the_list(tmp_path: Path) -> None:
    good = {
        "questionID": 5,
        "question": "怎么办",
        "description": "我睡不着",
        "keywords": "情绪,失眠",
        "answers": [{"answer_text": "试试放松", "has_label": False, "labels_sequence": None}],
    }
    bad = {"questionID": 6, "question": "", "description": "", "keywords": "", "answers": []}
    source = make_source(tmp_path / "p.json", json.dumps([good, bad], indent=1, ensure_ascii=False))

    rows, errors = split_items(source, "psyqa")

    assert rows[0].post == "怎么办\n我睡不着"
    assert (rows[0].topic, rows[0].references[0].text) == ("情绪,失眠", "试试放松")
    first_line_of_bad = source.path.read_text().splitlines().index(" {", 2) + 1  # type: ignore[union-attr]
    assert errors == [
        f'{source.name}:{first_line_of_bad}: question: must be a text that is not empty, got ""'
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_columns_read_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    table = [
        {"ask": "One?", "say": "Yes indeed.", "about": "work"},
        {"ask": "Two?", "say": "No.", "about": "home"},
    ]
    path = tmp_path / f"table.{suffix}"
    if suffix == "parquet":
        datasets = pytest.importorskip("datasets")
        datasets.Dataset.from_list(table).to_parquet(path)
    elif suffix == "csv":
        path.write_text("ask,say,about\n" + "".join(f"{','.join(row.values())}\n" for row in table))
    else:
        path.write_text(json.dumps(table) if suffix == "json" else "\n".join(map(json.dumps, table)))
    columns = ColumnsConfig(prompt="ask", answer="say", topic="about")

    rows, errors = split_items(Source(name=str(path), path=path, columns=columns), "columns")

    assert not errors
    assert [(row.post, row.references[0].text, row.topic) for row in rows] == [
        tuple(row.values()) for row in table
    ]


def test_a_wrong_column_name_is_answered_with_the_names_that_there_are(tmp_path: Path) -> None:
    source = make_source(
        tmp_path / "t.jsonl", '{"ask": "One?", "say": "Yes"}', columns=ColumnsConfig(prompt="question")
    )

    assert split_items(source, "columns")[1] == [
        f'{source.name}:1: there is no field "question"; there are ask, say'
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trian.jsonl", r"there is no file .*trian.jsonl; did you mean .*train.jsonl\?"),
        ("no/such/folder.jsonl", r"the folder .* has no no"),
    ],
)
def test_a_missing_file_is_answered_with_what_is_there(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "train.jsonl").write_text("")

    with pytest.raises(DataError, match=message):
        locate(str(tmp_path / name), language="en")


def test_only_a_name_that_can_be_no_file_is_a_hub_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()

    assert locate("nbertagnolli/counsel-chat", language="en").path is None
    for name in ("owner/train.jsonl", "data/train", "train"):
        with pytest.raises(DataError, match="there is no file"):
            locate(name, language="en")
    with pytest.raises(DataError, match="there is no file"):
        locate("owner/name", language="en", hub=False)


@pytest.mark.parametrize(
    ("path", "format", "num_rows"), [("counselchat", "counselchat", 692), ("smile_zh", "smile", 3000)]
)
def test_the_public_sets_are_read_without_a_bad_row(path: str, format: str, num_rows: int) -> None:
    file = SHARED / path / "train.jsonl"
    if not file.exists():
        pytest.skip(f"needs the development data at {file}")

    rows, errors = split_items(Source(name=str(file), path=file), format)

    assert (len(rows), errors) == (num_rows, [])
    assert all(row.references for row in rows)
