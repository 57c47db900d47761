"""The nearest word of a list to one that is misspelt: a key, a value, a kind, a stage."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest_word(wrong: object, words: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The word that is likeliest meant.

    Args:
        wrong: What was written.
        words: What may be written.
        cutoff: Least likeness, from 0 to 1.

    Returns:
        None where no word is near.
    """
    near = get_close_matches(str(wrong), words, n=1, cutoff=cutoff)
    return near[0] if near else None
