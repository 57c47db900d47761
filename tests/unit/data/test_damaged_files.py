"""A fault costs its own row and is named by its line; where rows can no longer be told apart, reading stops."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rl_empathy.config.sections import ColumnsConfig, DataConfig
from rl_empathy.data.formats import read
from rl_empathy.data.loading import load_data, read_source
from rl_empathy.data.rows import write_json_lines
from rl_empathy.data.sources import Source, locate
from rl_empathy.errors import DataError
from rl_empathy.observability.shown import shown
from rl_empathy.types import Row

COLUMNS = ColumnsConfig(prompt="ask", answer="say")
ROWS = [{"ask": f"Question {i}, or so?", "say": f"Answer {i}"} for i in range(200)]


def make_source(path: Path, content: bytes | str, columns: ColumnsConfig | None = COLUMNS) -> Source:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Source(name=str(path), path=path, columns=columns)


def skipping(source: Source, format: str = "columns") -> tuple[int, list[str]]:
    """The number of good rows, and the errors of the others."""
    items = list(read(source, format))
    return sum(isinstance(i, Row) for i in items), [str(i) for i in items if isinstance(i, DataError)]


def csv_lines() -> list[str]:
    return ["ask,say", *(f'"{row["ask"]}",{row["say"]}' for row in ROWS)]


def test_one_byte_of_another_encoding_in_a_csv_costs_one_row(tmp_path: Path) -> None:
    lines = [line.encode() for line in csv_lines()]
    lines[150] = '"I can’t sleep",Rest'.encode("cp1252")

    num_rows, errors = skipping(make_source(tmp_path / "t.csv", b"\n".join(lines)))

    assert num_rows == 199
    assert errors == [
        f"{tmp_path}/t.csv:151: ask: not UTF-8 (byte 0x92, character 6); save the file as UTF-8, "
        "or name its encoding in data.encoding (cp1252, gb18030, …)"
    ]


@pytest.mark.parametrize(
    "line",
    ['"I said to him,Rest', '"I said "no" to him",Rest'],
    ids=["open to the end", "in the middle of a text"],
)
@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
def test_a_stray_quote_in_a_csv_stops_the_reading_and_says_what_is_unread(
    tmp_path: Path, line: str, on_bad_row: str
) -> None:
    lines = [f"{row['ask'].replace(',', ';')},{row['say']}" for row in ROWS]
    lines = ["ask,say", *lines[:4], line, *lines[5:]]
    source = make_source(tmp_path / "t.csv", "\n".join(lines))

    with pytest.raises(DataError, match=r"t\.csv:6: not CSV .*the lines 6 to 201 are unread, after 4 rows"):
        read_source(source, "columns", on_bad_row=on_bad_row)  # type: ignore[arg-type]


def test_two_stray_quotes_do_not_swallow_the_rows_between_them(tmp_path: Path) -> None:
    lines = ["ask,say", "One,A", '"Two,B', "Three,C", 'Four,D"', "Five,E"]

    with pytest.raises(DataError, match=r"t\.csv:3: .*the lines 3 to 6 are unread, after 1 rows"):
        skipping(make_source(tmp_path / "t.csv", "\n".join(lines)))


def test_a_field_of_any_length_is_read(tmp_path: Path) -> None:
    lines = csv_lines()
    lines[5] = f'"{"a long story " * 12_000}",Rest'

    assert skipping(make_source(tmp_path / "t.csv", "\n".join(lines))) == (200, [])


def test_lines_of_a_csv_are_counted_with_blank_and_broken_ones(tmp_path: Path) -> None:
    text = '\nask,say\r\n\r\n"One\r\nand more",A\r\n\r\nTwo\r\nThree,C\r\n'

    num_rows, errors = skipping(make_source(tmp_path / "t.csv", text))

    assert (num_rows, errors) == (2, [f"{tmp_path}/t.csv:7: wanted 2 fields, got 1"])


@pytest.mark.parametrize("header", [b"ask,say,ask", b"ask,s\xe4y"])
def test_a_wrong_csv_header_stops_the_reading(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(DataError, match=r"t\.csv:1: header: "):
        skipping(make_source(tmp_path / "t.csv", header + b"\nOne,A\n"))


BAD_ITEMS = {
    "a trailing comma": b'{"ask": "x", "say": "y",}',
    "a word": b'{"ask": "x", "say": undefined}',
    "quotes in a text": b'{"ask": "He said "no", then left", "say": "y"}',
    "a raw line end": b'{"ask": "x\ny", "say": "z"}',
    "another encoding": b'{"ask": "I can\x92t", "say": "y"}',
    "half an emoji": rb'{"ask": "x \ud83d y", "say": "z"}',
    "half an emoji in a key": rb'{"ask": "x", "say": "y", "\ude14": 1}',
    "NUL": rb'{"ask": "x \u0000 y", "say": "z"}',
    "a key twice": b'{"ask": "x", "say": "y", "ask": "z"}',
    "an integer of 5,000 digits": b'{"ask": "x", "say": ' + b"9" * 5000 + b"}",
    "a list 100,000 deep": b'{"ask": "x", "say": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a list 900 deep": b'{"ask": "x", "say": ' + b"[" * 900 + b"]" * 900 + b"}",
    "a list 900 deep in a field that nobody reads": (
        b'{"ask": "x", "say": "y", "more": ' + b"[" * 900 + b"]" * 900 + b"}"
    ),
    "no object": b"[[[[1]]]]",
    "Infinity": b'{"ask": "x", "say": -Infinity}',
    "a missing answer": b'{"ask": "x", "say": NaN}',
    "a missing answer as a word": b'{"ask": "x", "say": "nan"}',
}


@pytest.mark.parametrize("item", BAD_ITEMS.values(), ids=BAD_ITEMS)
@pytest.mark.parametrize("layout", ["lines", "list"])
def test_a_bad_item_costs_one_row_in_json_lines_and_in_a_json_list(
    tmp_path: Path, item: bytes, layout: str
) -> None:
    items = [json.dumps(row).encode() for row in ROWS]
    items[7] = item if layout == "list" else item.replace(b"\n", b" ")
    content = b"\n".join(items) if layout == "lines" else b"[\n" + b",\n".join(items) + b"\n]\n"
    if layout == "lines" and b"\n" in item:
        pytest.skip("a line end is the end of a row here")
    source = make_source(tmp_path / "t.json", content)

    num_rows, errors = skipping(source)

    assert num_rows == 199
    assert [error.partition(": ")[0] for error in errors] == [f"{source.name}:{8 + (layout == 'list')}"]
    errors[0].encode()  # can be printed and written


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.csv"])
def test_no_mark_but_a_line_feed_ends_a_line(tmp_path: Path, name: str, mark: str) -> None:
    said = [{"ask": f"One{mark}two {i}", "say": f"Three{mark}four"} for i in range(3)]
    lines = [json.dumps(row, ensure_ascii=False) for row in said]
    text = {
        "t.jsonl": "\n".join(lines),
        "t.json": f"[{', '.join(lines)}]",
        "t.csv": "\n".join(["ask,say", *(f"{row['ask']},{row['say']}" for row in said)]),
    }[name]

    assert skipping(make_source(tmp_path / name, text)) == (3, [])


def test_a_windows_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    rows = "\r\n".join(map(json.dumps, ROWS))
    table = "\r\n".join(csv_lines())

    for name, text in {
        "a.jsonl": rows,
        "a.json": f"[{rows.replace('}', '},', 199)}]",
        "a.csv": table,
    }.items():
        assert skipping(make_source(tmp_path / name, "\ufeff" + text)) == (200, []), name


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (
            '[{"ask": "One", "say": "A"},\n {"ask": "Tw',
            r":2: .*lines 2 to 2 \(11 of 41 characters\).* 1 items",
        ),
        ('[{"ask": "One", "say": ["A"}\n, {}]', r":1: .*lines 1 to 2 .* 0 items"),
        (
            '[{"ask": "One", "say": "A}, {"ask": "Two", "say": "B"},\n{"ask": "Three, "say": "C"}]',
            r":1: .* 0 items",
        ),
        ('[{"ask": "One", "say": "A"}]\n[{"ask": "Two", "say": "B"}]', r":2: the JSON list ends.* 1 items"),
    ],
)
@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
def test_a_list_without_an_end_stops_the_reading_and_says_what_is_unread(
    tmp_path: Path, text: str, where: str, on_bad_row: str
) -> None:
    with pytest.raises(DataError, match=where):
        read_source(make_source(tmp_path / "t.json", text), "columns", on_bad_row=on_bad_row)  # type: ignore[arg-type]


def test_a_parquet_cell_that_is_no_text_costs_one_row_and_a_damaged_file_says_how_much_is_unread(
    tmp_path: Path,
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [row["ask"].encode() for row in ROWS]
    texts[7] = b"I can\x92t"
    binary = pyarrow.array(texts, pyarrow.binary())
    ask = pyarrow.StringArray.from_buffers(len(texts), *binary.buffers()[1:])
    table = pyarrow.table({"ask": ask, "say": [row["say"] for row in ROWS]})
    path = tmp_path / "t.parquet"
    parquet.write_table(table, path, compression="none", row_group_size=100, use_dictionary=False)
    source = Source(name=str(path), path=path, columns=COLUMNS)

    num_rows, errors = skipping(source)

    assert (num_rows, len(errors)) == (199, 1)
    assert errors[0].startswith(f"{path}: row 8: ")
    content = path.read_bytes()
    second_group = content.index(b"Question 100, or so?") - 100
    path.write_bytes(content[:second_group] + b"\xff" * 300 + content[second_group + 300 :])
    with pytest.raises(DataError, match=r"could not be read as parquet after \d+ of 200 rows"):
        skipping(source)


class BreakingSet:
    """A hub's data set whose connection is lost after the first row."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[dict[str, str]]:
        yield {"ask": "One?", "say": "Yes indeed."}
        raise OSError("connection lost")


@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
def test_a_hubs_data_set_that_breaks_off_stops_the_reading_and_says_what_is_unread(
    on_bad_row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: BreakingSet())
    source = Source(name="owner/posts", path=None, columns=COLUMNS)

    with pytest.raises(DataError, match=r"owner/posts .* after 1 of 3 rows: OSError: .*connection lost"):
        read_source(source, "columns", on_bad_row=on_bad_row)  # type: ignore[arg-type]


def test_half_an_emoji_in_any_field_of_our_rows_is_a_bad_row(tmp_path: Path) -> None:
    half = "\ud83d"
    bad: list[dict[str, object]] = [
        {"id": f"a{half}", "prompt": "x"},
        {"id": "b", "prompt": f"x{half}"},
        {"id": "c", "messages": [{"role": "user", "content": half}]},
        {"id": "d", "prompt": "x", "references": [{"text": f"a reply that is cut {half}"}]},
        {"id": "e", "prompt": "x", "metadata": {"topic": half}},
        {"id": "f", "prompt": "x", "metadata": {half: "x"}},
        {"id": "g", "prompt": "x", "trace": {"teacher": "t", "spans": {"L1": half}}},
    ]
    path = tmp_path / "rows.jsonl"
    good = [{"id": str(i), "prompt": f"Post {i}"} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*good, *bad]))
    config = {"train": str(path), "held_out_prompts": 1}

    data = load_data(DataConfig.model_validate({**config, "on_bad_row": "skip"}), seed=0)

    assert (data.counts["rows_read"], data.counts["bad_rows"]) == (4, 7)
    with pytest.raises(DataError, match=r"rows\.jsonl:5: holds \\ud83d"):
        load_data(DataConfig.model_validate(config), seed=0)


def test_what_is_written_never_fails_on_half_an_emoji(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "out.jsonl", [{"text": "cut \ud83d off", "line": "one\u2028two"}])

    (line,) = (tmp_path / "out.jsonl").read_bytes().decode().removesuffix("\n").split("\n")
    assert json.loads(line) == {"text": "cut \ud83d off", "line": "one\u2028two"}
    assert shown("cut \ud83d off") == r'"cut \ud83d off"'


@given(
    content=st.binary(max_size=300) | st.text('[]{},:"\\\n\r 1e.askytru\ufeff', max_size=120).map(str.encode),
    name=st.sampled_from(["t.jsonl", "t.json", "t.csv"]),
    format=st.sampled_from(["rows", "columns", "counselchat", "smile", "psyqa"]),
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_bytes_make_a_reader_fail(tmp_path: Path, name: str, format: str, content: bytes) -> None:
    source = make_source(tmp_path / name, content)

    try:
        found: object = read_source(source, format, on_bad_row="skip")
    except DataError as error:
        found = str(error)

    assert str(tmp_path) in found if isinstance(found, str) else found


def test_a_disk_that_fails_is_told_with_the_name_of_the_file() -> None:
    memory = Path("/proc/self/mem")  # opens, and gives an error when it is read
    if not memory.exists():
        pytest.skip("needs /proc")

    with pytest.raises(DataError, match=r"/proc/self/mem could not be read after 0 rows: .*Input/output"):
        read_source(Source(name=str(memory), path=memory), "rows", on_bad_row="skip")


@pytest.mark.parametrize("name", ["x" * 5000, f"{'x' * 300}/rows.jsonl"])
def test_a_name_that_is_too_long_for_a_file_is_a_missing_file(name: str) -> None:
    with pytest.raises(DataError, match="there is no file"):
        locate(name, language="en", hub=False)


KEYS = [
    "id",
    "prompt",
    "messages",
    "references",
    "metadata",
    "trace",
    "text",
    "role",
    "content",
    "ask",
    "say",
    "topic",
    "question_id",
    "questionID",
    "question",
    "answer",
    "answers",
    "answer_text",
    "keywords",
    "turns",
    "upvotes",
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["user", "client"]),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(KEYS), values, max_size=3),
    max_leaves=6,
)


@given(
    rows=st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6), min_size=1, max_size=4),
    format=st.sampled_from(["rows", "columns", "smile", "psyqa"]),
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_value_in_any_field_is_a_row_or_an_error(
    tmp_path: Path, rows: list[dict[str, object]], format: str
) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)

    num_rows, errors = skipping(make_source(tmp_path / "t.jsonl", lines), format)

    assert num_rows + len(errors) == len(rows)


@given(
    bad=st.sets(st.integers(0, 19)),
    kind=st.sampled_from(sorted(BAD_ITEMS.keys() - {"a raw line end", "a list 100,000 deep"})),
    layout=st.sampled_from(["lines", "list"]),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_rows_and_errors_add_up_and_every_error_names_its_line(
    tmp_path: Path, layout: str, bad: set[int], kind: str
) -> None:
    if layout == "lines" and kind == "no object":
        bad = bad - {0}  # a file that begins with a list is read as one list
    items = [BAD_ITEMS[kind] if i in bad else json.dumps(row).encode() for i, row in enumerate(ROWS[:20])]
    content = b"\n".join(items) if layout == "lines" else b"[" + b",\n".join(items) + b"]"
    source = make_source(tmp_path / "t.json", content)

    num_rows, errors = skipping(source)

    assert num_rows + len(errors) == 20
    lines = [int(error.removeprefix(f"{source.name}:").partition(":")[0]) for error in errors]
    assert lines == [index + 1 for index in sorted(bad)]
