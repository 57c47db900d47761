"""What a reward function gave, read as one score a completion. A value that is no number is never a 0."""

import math
import reprlib
from collections.abc import Iterable, Mapping, Set
from itertools import islice
from numbers import Real
from typing import Any

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


def score_of(item: Any) -> float | None:
    """A score, or None where there is none: None itself, nan, ±inf, or an integer beyond every float.

    Args:
        item: Item of any type; numbers of numpy and torch, and bools, are numbers.

    Raises:
        NotScoresError: It is no number.
    """
    if item is None:
        return None
    if getattr(item, "ndim", None) == 0 and hasattr(item, "item"):
        item = item.item()
    if not isinstance(item, Real):
        raise NotScoresError(f"it gave {shown(item)}")
    try:
        score = float(item)
    except OverflowError:
        return None
    return score if math.isfinite(score) else None


def shown(value: Any) -> str:
    """The type and the beginning of a value."""
    return f"{reprlib.repr(value)} ({type(value).__name__})"
