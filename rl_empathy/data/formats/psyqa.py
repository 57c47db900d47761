"""PsyQA: Chinese questions with long answers (github.com/thu-coai/PsyQA)."""

from rl_empathy.data.formats.fields import dicts_of, id_of, optional_text_of, prompt_of, text_of, topic_of
from rl_empathy.data.formats.making import Items, rows_of
from rl_empathy.data.records import Record
from rl_empathy.data.sources import Source, records
from rl_empathy.data.text import joined_post
from rl_empathy.types import Reference, Row


def read_psyqa(source: Source) -> Items:
    """PsyQA's JSON list (fields as in its PsyQA_example.json); its licence forbids passing the text on."""
    return rows_of(records(source), _psyqa_row)


def _psyqa_row(record: Record) -> Row:
    answers = dicts_of(record, "answers")
    post = joined_post(optional_text_of(record, "question"), optional_text_of(record, "description"))
    return Row(
        id=f"psyqa-{id_of(record, 'questionID')}",
        messages=prompt_of(text_of(record, "question", post)),
        references=tuple(
            Reference(text=text_of(record, "answers.answer_text", answer.get("answer_text")))
            for answer in answers
        ),
        metadata={"language": "zh"} | topic_of(optional_text_of(record, "keywords")),
    )
