"""One reader a format: each gives rows in the order of the source, a DataError in place of a wrong one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rl_empathy.data.records import Record
from rl_empathy.data.rows import row_from_dict
from rl_empathy.data.sources import Source, dialogue_records, records
from rl_empathy.data.text import cleaned, conversation_key, is_missing, joined_post
from rl_empathy.errors import DataError
from rl_empathy.observability.shown import shown
from rl_empathy.types import Message, Reference, Role, Row

Items = Iterator[Row | DataError]

HUB_FORMATS = ("counselchat", "columns")
"""Formats that a data set of a hub can have; the others are files."""
FOLDER_FORMATS = ("smile",)
"""Formats whose source can be a folder with one file a dialogue."""
LANGUAGES: Mapping[str, str] = {"counselchat": "en", "smile": "zh", "psyqa": "zh"}
"""Formats of one language."""


def read(source: Source, format: str) -> Items:
    """Read a source in one of the formats of `READERS`; equal ids of different prompts are errors."""
    return READERS[format](source)


def read_rows(source: Source) -> Items:
    """Our own JSON lines; a row without metadata.language gets the source's."""

    def row(record: Record) -> Row:
        data = dict(record.data)
        if isinstance(metadata := data.get("metadata", {}), dict):
            data["metadata"] = {"language": source.language, **metadata}
        return row_from_dict(data, record.where)

    return _rows(records(source), row, unique_ids=True)


def read_counselchat(source: Source) -> Items:
    """CounselChat (MIT): JSON lines with a list of answers, or its repository's CSV or its hub name."""
    return counselchat_items(records(source))


def counselchat_items(items: Iterable[Record | DataError]) -> Items:
    """Rows of CounselChat's records, a question's answers best first: by votes, then views."""
    questions: list[Record] = []
    by_id: dict[str, Record] = {}
    errors: list[DataError] = []
    for item in items:
        try:
            if isinstance(item, DataError):
                raise item
            if "answers" in item.data:
                questions.append(item)
                continue
            question, answer = _counselchat_line(item)
            if question["question_id"] not in by_id:
                by_id[question["question_id"]] = Record(item.where, question)
                questions.append(by_id[question["question_id"]])
            by_id[question["question_id"]].data["answers"].append(answer)
        except DataError as error:
            errors.append(error)
    yield from errors
    yield from _rows(questions, _counselchat_row)


def read_smile(source: Source) -> Items:
    """SMILE (CC0): a post and its first reply; `turns` counts only where one of the two is missing.

    Then the row is the longest conversation in `turns` that the assistant goes on with. SMILE's own layout, one
    file a dialogue, is such turns; the source is a file or their folder.
    """
    return _rows(dialogue_records(source), _smile_row)


def read_psyqa(source: Source) -> Items:
    """PsyQA's JSON list (fields as in its PsyQA_example.json); its licence forbids passing the text on."""
    return _rows(records(source), _psyqa_row)


def read_columns(source: Source) -> Items:
    """Any table by a column mapping; rows of equal prompts are merged later."""
    columns = source.columns
    assert columns is not None, "the configuration lets format: columns pass only with a mapping"

    def row(record: Record) -> Row:
        _require_no_utterances(record)
        answers = _field(record, columns.answer) if columns.answer else []
        texts = answers if isinstance(answers, list) else [answers]
        topic = _field(record, columns.topic) if columns.topic else None
        number = record.where.rpartition(":")[2].removeprefix(" row ")
        return Row(
            id=_id(record, columns.id) if columns.id else f"row-{number}",
            messages=_prompt(_text(record, columns.prompt, _field(record, columns.prompt))),
            references=tuple(Reference(text=_text(record, columns.answer or "", t)) for t in texts),
            metadata={"language": source.language} | _topic(topic),
        )

    return _rows(records(source), row)


_TURN_ROLES: Mapping[str, Role] = {
    "user": "user",
    "assistant": "assistant",
    "client": "user",
    "counselor": "assistant",
}
"""Roles in SMILE's turns, as they are and as SMILE's own files name them."""

READERS: Mapping[str, Callable[[Source], Items]] = {
    "rows": read_rows,
    "counselchat": read_counselchat,
    "smile": read_smile,
    "psyqa": read_psyqa,
    "columns": read_columns,
}


def _rows(
    items: Iterable[Record | DataError], row: Callable[[Record], Row], *, unique_ids: bool = False
) -> Items:
    first_use: dict[str, tuple[str, str]] = {}
    for item in items:
        if isinstance(item, DataError):
            yield item
            continue
        try:
            made = row(item)
        except DataError as error:
            yield error
            continue
        conversation = conversation_key(made.messages)
        where, known = first_use.setdefault(made.id, (item.where, conversation))
        if where != item.where and (unique_ids or known != conversation):
            yield DataError(f"{item.where}: id: {shown(made.id)} is already used at {where}; ids must differ")
        else:
            yield made


def _field(record: Record, name: str) -> Any:
    if name not in record.data:
        raise DataError(
            f"{record.where}: there is no field {shown(name)}; there are {', '.join(map(str, record.data))}"
        )
    return record.data[name]


def _text(record: Record, name: str, value: object) -> str:
    # `_comma_` is how EmpatheticDialogues, and whoever made a table of it, writes a comma.
    text = cleaned(value.replace("_comma_", ",")) if isinstance(value, str) else ""
    if is_missing(text):
        raise DataError(f"{record.where}: {name}: must be a text that is not empty, got {shown(value)}")
    return text


def _id(record: Record, name: str) -> str:
    value = _field(record, name)
    if is_missing(value) or isinstance(value, list | dict):
        raise DataError(f"{record.where}: {name}: must be a text or a number, got {shown(value)}")
    return str(value)


def _topic(value: object) -> dict[str, str]:
    return {} if is_missing(value) else {"topic": str(value).strip()}


def _require_no_utterances(record: Record) -> None:
    if {"conv_id", "utterance_idx", "utterance"} <= record.data.keys():
        raise DataError(
            f"{record.where}: EmpatheticDialogues has one utterance a line, and format columns wants a post and its "
            "reply in one; join the utterances of each conv_id (odd utterance_idx: help-seeker, even: reply)"
        )


def _dicts(record: Record, name: str) -> list[dict[str, Any]]:
    items = _field(record, name)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(f"{record.where}: {name}: must be a list of objects, got {shown(items)}")
    return items


def _number(record: Record, name: str, value: object) -> int:
    if is_missing(value):
        return 0
    try:
        # pandas writes the whole numbers of a column with gaps as 3.0
        return int(str(value).removesuffix(".0"))
    except ValueError:
        raise DataError(f"{record.where}: {name}: must be a whole number, got {shown(value)}") from None


def _prompt(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def _counselchat_line(record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
    """Question and answer of one line; the newer of the two CSV files has `topics` and no views."""
    data = record.data
    question: dict[str, Any] = {
        "question_id": _id(record, "questionID"),
        "topic": data["topics"] if is_missing(data.get("topic")) and "topics" in data else data.get("topic"),
        "title": data.get("questionTitle"),
        "question": data.get("questionText"),
        "answers": [],
    }
    answer = {
        "text": _text(record, "answerText", _field(record, "answerText")),
        "upvotes": _number(record, "upvotes", data.get("upvotes")),
        "views": _number(record, "views", data.get("views")),
    }
    return question, answer


def _counselchat_row(record: Record) -> Row:
    def merit(answer: Mapping[str, Any]) -> tuple[int, int]:
        upvotes, views = (_number(record, name, answer.get(name)) for name in ("upvotes", "views"))
        return -upvotes, -views

    post = joined_post(*(_optional(record, name) for name in ("title", "question")))
    return Row(
        id=f"counselchat-{_id(record, 'question_id')}",
        messages=_prompt(_text(record, "question", post)),
        references=tuple(
            Reference(text=_text(record, "answers.text", answer.get("text")), votes=-merit(answer)[0])
            for answer in sorted(_dicts(record, "answers"), key=merit)
        ),
        metadata={"language": "en"} | _topic(_optional(record, "topic")),
    )


def _optional(record: Record, name: str) -> str:
    value = record.data.get(name)
    if is_missing(value):
        return ""
    if not isinstance(value, str):
        raise DataError(f"{record.where}: {name}: must be a text, got {shown(value)}")
    return value


def _smile_row(record: Record) -> Row:
    if "turns" in record.data and not ("question" in record.data and "answer" in record.data):
        messages, answer = _smile_turns(record)
    else:
        messages = _prompt(_text(record, "question", _field(record, "question")))
        answer = _text(record, "answer", _field(record, "answer"))
    return Row(
        id=f"smile-{_id(record, 'id')}",
        messages=messages,
        references=(Reference(text=answer),),
        metadata={"language": "zh"},
    )


def _smile_turns(record: Record) -> tuple[tuple[Message, ...], str]:
    turns = _dicts(record, "turns")
    for turn in turns:
        if turn.get("role") not in tuple(_TURN_ROLES):
            raise DataError(
                f"{record.where}: turns.role: must be one of {', '.join(_TURN_ROLES)}, got {shown(turn.get('role'))}"
            )
    messages = tuple(
        Message(role=_TURN_ROLES[turn["role"]], content=_text(record, "turns.content", turn.get("content")))
        for turn in turns
    )
    for end in range(len(messages) - 1, 0, -1):
        if (messages[end - 1].role, messages[end].role) == ("user", "assistant"):
            return messages[:end], messages[end].content
    raise DataError(f"{record.where}: turns: no user message has a reply")


def _psyqa_row(record: Record) -> Row:
    answers = _dicts(record, "answers")
    post = joined_post(_optional(record, "question"), _optional(record, "description"))
    return Row(
        id=f"psyqa-{_id(record, 'questionID')}",
        messages=_prompt(_text(record, "question", post)),
        references=tuple(
            Reference(text=_text(record, "answers.answer_text", answer.get("answer_text")))
            for answer in answers
        ),
        metadata={"language": "zh"} | _topic(_optional(record, "keywords")),
    )
