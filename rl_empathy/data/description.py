"""What was read of a run's data, for its owner to look at: counts, lengths, languages, topics, an example."""

import statistics
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from rl_empathy.data.loading import DataSet
from rl_empathy.types import Row, conversation_text

MOST_TOPICS = 8
MOST_CHARACTERS = 600
"""Of an example's text."""


def description(data: DataSet) -> str:
    """Give the page that `rl-empathy data` prints."""
    return "\n".join(_lines(data)) + "\n"


def _lines(data: DataSet) -> Iterator[str]:
    yield f"{data.source}: {len(data.train):,} prompts to train on, {len(data.held_out):,} held out"
    for name, count in data.counts.items():
        if count:
            yield f"  {name.replace('_', ' '):26} {count:>9,}"
    for side, rows in (("to train on", data.train), ("held out", data.held_out)):
        yield ""
        yield f"{side}: {len(rows):,} prompts, {sum(len(row.messages) > 1 for row in rows):,} with a conversation"
        yield f"  characters of a post        {_spread([len(conversation_text(row.messages)) for row in rows])}"
        answers = [len(reference.text) for row in rows for reference in row.references]
        yield f"  characters of a reference   {_spread(answers)}"
        references = Counter(len(row.references) for row in rows)
        yield f"  references of a post        {_counted(references)}"
        yield f"  with a trace                {sum(row.trace is not None for row in rows):,}"
        scripts = Counter("Chinese" if _is_chinese(row) else "other" for row in rows)
        yield f"  script                      {_counted(scripts)}"
        if topics := Counter(row.metadata["topic"] for row in rows if "topic" in row.metadata):
            yield f"  topics                      {_counted(topics)}"
    yield ""
    yield from _example(next((row for row in data.train if row.references), data.train[0]))


def _spread(lengths: Sequence[int]) -> str:
    if not lengths:
        return "none"
    middle = statistics.median(lengths)
    return f"{min(lengths):,} to {max(lengths):,}, half of them up to {middle:,.0f}"


def _counted(counts: "Counter[int] | Counter[str]") -> str:
    shown = [f"{name}: {count:,}" for name, count in counts.most_common(MOST_TOPICS)]
    return ", ".join(shown) + (f", and {len(counts) - MOST_TOPICS} more" if len(counts) > MOST_TOPICS else "")


def _is_chinese(row: Row) -> bool:
    text = conversation_text(row.messages)
    return sum("一" <= character <= "鿿" for character in text) > len(text) / 4


def _example(row: Row) -> Iterator[str]:
    yield f"an example, row {row.id}:"
    for message in row.messages:
        yield from _part(message.role, message.content)
    for reference in row.references[:1]:
        yield from _part("reference", reference.text)
    for name, text in row.trace.spans.items() if row.trace else ():
        yield from _part(f"trace, {name}", text)


def _part(name: str, text: str) -> Iterator[str]:
    shown = text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} …"
    lines = [part for line in shown.splitlines() for part in textwrap.wrap(line, 96)]
    yield from (f"  {name + ':' if number == 0 else '':12} {line}" for number, line in enumerate(lines))
