"""CounselChat: questions with the answers of counsellors, voted on (github.com/nbertagnolli/counsel-chat)."""

from collections.abc import Iterable, Mapping
from typing import Any

from rl_empathy.data.formats.fields import (
    dicts_of,
    field_of,
    id_of,
    number_of,
    optional_text_of,
    prompt_of,
    text_of,
    topic_of,
)
from rl_empathy.data.formats.making import Items, rows_of
from rl_empathy.data.records import Record
from rl_empathy.data.sources import Source, records
from rl_empathy.data.text import is_missing, joined_post
from rl_empathy.errors import DataError
from rl_empathy.types import Reference, Row


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
    yield from rows_of(questions, _counselchat_row)


def _counselchat_line(record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
    """Question and answer of one line; the newer of the two CSV files has `topics` and no views."""
    data = record.data
    question: dict[str, Any] = {
        "question_id": id_of(record, "questionID"),
        "topic": data["topics"] if is_missing(data.get("topic")) and "topics" in data else data.get("topic"),
        "title": data.get("questionTitle"),
        "question": data.get("questionText"),
        "answers": [],
    }
    answer = {
        "text": text_of(record, "answerText", field_of(record, "answerText")),
        "upvotes": number_of(record, "upvotes", data.get("upvotes")),
        "views": number_of(record, "views", data.get("views")),
    }
    return question, answer


def _counselchat_row(record: Record) -> Row:
    def merit(answer: Mapping[str, Any]) -> tuple[int, int]:
        upvotes, views = (number_of(record, name, answer.get(name)) for name in ("upvotes", "views"))
        return -upvotes, -views

    post = joined_post(*(optional_text_of(record, name) for name in ("title", "question")))
    return Row(
        id=f"counselchat-{id_of(record, 'question_id')}",
        messages=prompt_of(text_of(record, "question", post)),
        references=tuple(
            Reference(text=text_of(record, "answers.text", answer.get("text")), votes=-merit(answer)[0])
            for answer in sorted(dicts_of(record, "answers"), key=merit)
        ),
        metadata={"language": "en"} | topic_of(optional_text_of(record, "topic")),
    )
