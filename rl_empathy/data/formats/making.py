"""Records in, rows out: each wrong record gives its error in place of a row."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from rl_empathy.data.records import Record
from rl_empathy.data.text import conversation_key
from rl_empathy.errors import DataError
from rl_empathy.observability.shown import shown
from rl_empathy.types import Row

Items = Iterator[Row | DataError]
"""Rows in the order of the source, a DataError in place of a wrong one."""


def rows_of(
    items: Iterable[Record | DataError],
    make: Callable[[Record], Row | Sequence[Row]],
    *,
    unique_ids: bool = False,
) -> Items:
    """Make the row of every record; equal ids of different prompts are errors.

    Args:
        items: Records, and the errors of those that could not be read.
        make: Makes the row, or the rows, of a record; what it raises is that record's error.
        unique_ids: Equal ids are errors, whatever the prompts.
    """
    first_use: dict[str, tuple[str, str]] = {}
    for item in items:
        if isinstance(item, DataError):
            yield item
            continue
        try:
            made = make(item)
        except DataError as error:
            yield error
            continue
        for row in [made] if isinstance(made, Row) else made:
            conversation = conversation_key(row.messages)
            where, known = first_use.setdefault(row.id, (item.where, conversation))
            if where != item.where and (unique_ids or known != conversation):
                yield DataError(
                    f"{item.where}: id: {shown(row.id)} is already used at {where}; ids must differ"
                )
            else:
                yield row
