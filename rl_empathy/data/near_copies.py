"""Posts that are nearly the same, and references that stand at several posts: what a split must not part.

A shingle is a run of characters, white space and punctuation left out. Two posts are near-copies when they share at
least half of the shingles of the shorter one: reposts with another title, with words mended, or cut short.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from rl_empathy.data.risk import SAFE_REPLY
from rl_empathy.data.text import folded
from rl_empathy.types import Row

SHINGLE_CHARACTERS = {"en": 20, "zh": 8}
"""About four words."""
SHARED_FRACTION = 0.5
MIN_SHINGLES = 20
"""A post or reference with fewer shingles is a greeting or a set phrase, and says nothing of its writer."""
MOST_ROWS = 1000
"""A shingle in more rows is a set phrase and is not counted, so that the work grows with the rows, not their square."""
MOST_SHARED = 20
"""A reference at more posts is a stock reply, such as a hotline's number: it does not keep its posts together."""
_AT_ONCE = 4096
_BASE = np.uint64(0x9E3779B97F4A7C15)

Links = list[tuple[int, int]]
"""Pairs of row numbers, the smaller one first."""


def near_copies(posts: Sequence[str], language: str) -> Links:
    """Find the pairs of posts that are near-copies.

    The shingles are compared by a hash of 64 bits; nothing else is approximate.
    """
    length = SHINGLE_CHARACTERS[language]
    hashes = [_shingles(folded(post), length) for post in posts]
    several, counts = _in_several(hashes)
    sizes, held = np.empty(len(posts), dtype=np.int64), []
    for number, own in enumerate(hashes):
        places = np.searchsorted(several, own)
        places = places[several[np.minimum(places, len(several) - 1)] == own] if len(several) else places[:0]
        rare = places[counts[places] <= MOST_ROWS]
        sizes[number] = len(own) - (len(places) - len(rare))
        held.append(rare)
    ends = np.cumsum([0, *map(len, held)])
    ones = np.ones(ends[-1], dtype=np.int32)
    holds = csr_array((ones, np.concatenate([*held, _NO_PLACES]), ends), shape=(len(posts), len(several)))
    by_shingle = holds.T.tocsr()
    links: Links = []
    for start in range(0, len(posts), _AT_ONCE):
        shared = (holds[start : start + _AT_ONCE] @ by_shingle).tocoo()
        first, second = shared.row + start, shared.col
        shorter = np.minimum(sizes[first], sizes[second])
        near = (first < second) & (shorter >= MIN_SHINGLES) & (shared.data >= SHARED_FRACTION * shorter)
        links += zip(first[near].tolist(), second[near].tolist(), strict=True)
    return sorted(links)


def shared_references(rows: Sequence[Row], language: str) -> Links:
    """Find the pairs of rows with an equal reference, as long as a post that counts; our own safe reply binds none."""
    ours = {folded(reply) for reply in SAFE_REPLY.values()}
    shortest = SHINGLE_CHARACTERS[language] + MIN_SHINGLES - 1
    holders: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        for text in {folded(reference.text) for reference in row.references}:
            if len(text) >= shortest and text not in ours:
                holders.setdefault(text, []).append(number)
    pairs = {pair for held in holders.values() if len(held) <= MOST_SHARED for pair in pairwise(held)}
    return sorted(pairs)


def linked_groups(count: int, links: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Numbers 0 to count - 1 in groups: those that are linked, through others as well, are in one."""
    pairs = np.array([*links], dtype=np.int64).reshape(-1, 2)
    graph = csr_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    groups: dict[int, list[int]] = {}
    for number, label in enumerate(connected_components(graph, directed=False)[1].tolist()):
        groups.setdefault(label, []).append(number)
    return list(groups.values())


_NONE: NDArray[np.uint64] = np.array([], dtype=np.uint64)
_NO_PLACES: NDArray[np.int64] = np.array([], dtype=np.int64)


def _in_several(hashes: Sequence[NDArray[np.uint64]]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The shingles that several posts hold, in order, and how many do; most stand in one."""
    everything = np.concatenate([*hashes, _NONE])
    everything.sort()
    begins = (
        np.flatnonzero(np.concatenate(([True], everything[1:] != everything[:-1])))
        if len(everything)
        else _NO_PLACES
    )
    counts = np.diff(begins, append=len(everything))
    return everything[begins[counts > 1]], counts[counts > 1]


def _shingles(text: str, length: int) -> NDArray[np.uint64]:
    """The hashes of a text's different shingles: a polynomial in the code points, modulo 2^64."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(
        np.uint64
    ) + np.uint64(1)
    if len(points) < length:
        return _NONE
    hashes = np.zeros(len(points) - length + 1, dtype=np.uint64)
    for offset in range(length):
        hashes = hashes * _BASE + points[offset : offset + len(hashes)]
    return np.unique(hashes)
