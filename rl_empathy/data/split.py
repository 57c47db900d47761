"""Training and held-out prompts: rows that know of each other are on one side, and what binds them is counted."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

from rl_empathy.data.near_copies import linked_groups, near_copies, shared_references
from rl_empathy.data.text import conversation_key, folded
from rl_empathy.errors import DataError
from rl_empathy.types import Row, conversation_text

GREETING_CHARACTERS = 40
"""A first message of fewer letters, after which conversations part, is a greeting: it says nothing of its writer."""


Reason = Literal["near_copy", "shared_reference"]


class Link(NamedTuple):
    """Two rows that a split does not part, by their ids."""

    one: str
    other: str
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The two sides, each in an order drawn from the seed."""

    train: tuple[Row, ...]
    held_out: tuple[Row, ...]
    links: tuple[Link, ...]
    counts: Mapping[str, int]
    """Rows that are kept together with another one: near_copies, shared_references."""


def split(rows: Sequence[Row], wanted: float, *, language: str, seed: int, name: str) -> Split:
    """Hold prompts out.

    Args:
        rows: All of them, each conversation once.
        wanted: Prompts to hold out; below 1 their share of all.
        language: "en" or "zh".
        seed: Decides, with the text of the rows, which are held out.
        name: Name of the source, for errors.

    Raises:
        DataError: So many prompts cannot be held out.
    """
    wanted = max(1, round(wanted * len(rows))) if wanted < 1 else int(wanted)
    if 2 * wanted > len(rows):
        raise DataError(
            f"data.held_out_prompts ({wanted}) is more than half of the {len(rows)} prompts of {name}; "
            f"set data.held_out_prompts: {max(1, len(rows) // 4)}, or give more data"
        )
    links = _links(rows, language)
    held_out: list[Row] = []
    train: list[Row] = []
    for group in _groups(rows, links.pairs, seed):
        (held_out if len(held_out) + len(group) <= wanted else train).extend(group)
    if len(held_out) < wanted:
        raise DataError(
            f"data.held_out_prompts ({wanted}) cannot be met: only {len(held_out)} prompts of {name} can be held out "
            "without parting a conversation from those that go on from it, near-copies, or posts that share a "
            "reference; ask for fewer"
        )
    return Split(
        train=tuple(train),
        held_out=tuple(held_out),
        links=tuple(sorted(links.named(rows))),
        counts={
            "near_copies": len({*chain(*links.copies)}),
            "shared_references": len({*chain(*links.shared)}),
        },
    )


def split_beside(
    rows: Sequence[Row], held_out: Sequence[Row], *, language: str, seed: int, name: str
) -> Split:
    """Take a held-out side that is given, and leave out of the rows what is bound to it.

    Args:
        rows: To train on, each conversation once.
        held_out: As they are given.
        language: "en" or "zh".
        seed: Decides the order.
        name: Name of the source, for errors.

    Raises:
        DataError: Nothing is left to train on, or nothing is held out.
    """
    together = [*held_out, *rows]
    links, of_held_out = _links(together, language), {id(row) for row in held_out}
    held: list[Row] = []
    train: list[Row] = []
    for group in _groups(together, links.pairs, seed):
        given = [row for row in group if id(row) in of_held_out]
        held += given
        train += [] if given else group
    if not held or not train:
        raise DataError(
            f"data.held_out has {len(held)} prompts, beside which {len(train)} of the {len(rows)} of {name} are left "
            "to train on; give other files"
        )
    return Split(
        train=tuple(train),
        held_out=tuple(held),
        links=(),
        counts={"left_out_beside_held_out": len(rows) - len(train)},
    )


class _Links(NamedTuple):
    """Pairs of rows that a split does not part, by their numbers."""

    families: list[tuple[int, int]]
    copies: Sequence[tuple[int, int]]
    shared: Sequence[tuple[int, int]]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return [*self.families, *self.copies, *self.shared]

    def named(self, rows: Sequence[Row]) -> list[Link]:
        return _named(rows, self.copies, "near_copy") + _named(rows, self.shared, "shared_reference")


def _links(rows: Sequence[Row], language: str) -> _Links:
    return _Links(
        families=[pair for family in _families(rows) for pair in itertools.pairwise(family)],
        copies=near_copies([_said(row) for row in rows], language),
        shared=shared_references(rows, language),
    )


def _groups(rows: Sequence[Row], links: Sequence[tuple[int, int]], seed: int) -> list[list[Row]]:
    """Rows that stay together, in an order drawn from the seed; in a group the shortest conversation first."""
    groups = [
        sorted((rows[i] for i in group), key=lambda row: (len(row.messages), conversation_key(row.messages)))
        for group in linked_groups(len(rows), links)
    ]
    return sorted(groups, key=lambda group: _drawn(seed, group[0]))


def _named(rows: Sequence[Row], links: Sequence[tuple[int, int]], reason: Reason) -> list[Link]:
    pairs = (sorted((rows[a].id, rows[b].id)) for a, b in links)
    return [Link(one, other, reason) for one, other in pairs]


def _said(row: Row) -> str:
    return "\n".join(message.content for message in row.messages if message.role == "user")


def _families(rows: Sequence[Row]) -> list[list[int]]:
    """Numbers of rows that stay on one side: a conversation, and those that go on from it."""
    keys = [_prefix_keys(row) for row in rows]
    whole = {key[-1] for key in keys}
    goes_on: dict[bytes, set[bytes]] = {}
    for key in keys:
        for end, prefix in enumerate(key[:-1], start=1):
            if prefix in whole:
                goes_on.setdefault(prefix, set()).add(key[min(end + 1, len(key) - 1)])
    greetings = {
        key[-1]
        for key, row in zip(keys, rows, strict=True)
        if len(goes_on.get(key[-1], ())) > 1
        and len(folded(conversation_text(row.messages))) < GREETING_CHARACTERS
    }
    roots = whole - greetings
    families: dict[bytes, list[int]] = {}
    for number, key in enumerate(keys):
        root = next((prefix for prefix in key if prefix in roots), key[-1])
        families.setdefault(root, []).append(number)
    return list(families.values())


def _prefix_keys(row: Row) -> list[bytes]:
    """A key for the conversation up to each of its messages; the last one is that of the whole."""
    texts = [f"{message.role}:{folded(message.content)}".encode() for message in row.messages]
    return [*itertools.accumulate(texts, lambda key, text: hashlib.sha256(key + b"\n" + text).digest())]


def _drawn(seed: int, row: Row) -> tuple[str, str]:
    text = folded(conversation_text(row.messages))
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest(), conversation_key(row.messages)
