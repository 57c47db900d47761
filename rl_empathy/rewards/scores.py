"""What a reward function gave, read as one item a completion."""

from collections.abc import Iterable, Mapping, Set
from itertools import islice
from typing import Any

from rl_empathy.user_code import shown

WANTED = (
    "a reward function gives one number a completion, in their order (None where it could not score one), for example "
    "as a list"
)


class NotScoresError(ValueError):
    """A reward function gave something else than scores; the text says what."""


def items_of(given: Any, count: int) -> list[Any]:
    """One item a completion, of a list, a tuple, an array or a generator.

    Args:
        given: What the function returned, awaited.
        count: Completions.

    Raises:
        NotScoresError: It has no order, is one value, or has another number of items.
    """
    unordered = isinstance(given, str | bytes | bytearray | Mapping | Set)
    if unordered or not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
        raise NotScoresError(f"it gave {shown(given)}; {WANTED}")
    items = list(islice(given, count + 1))  # a generator may have no end
    if len(items) != count:
        number = f"more than {count}" if len(items) > count else str(len(items))
        raise NotScoresError(f"{number} scores for {count} completions: it gave {shown(given)}; {WANTED}")
    return items
