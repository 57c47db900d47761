"""Questions with a right and a wrong answer, for training and judging the reward model.

hard        a reference of another prompt of the same topic; where there are no topics, of a lexically near prompt
easy        a reference of another topic
corrupted   the right answer, spoilt
copy, quote, shuffled, rewritten, warmth, question     what only echoes the post or fits every post, see `echoes`
"""

import logging
import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from rl_empathy.data.corruptions import corrupted
from rl_empathy.data.echoes import ECHO_KINDS, EchoKind, negative_echo, probe_echo
from rl_empathy.data.text import folded, hashed, is_missing
from rl_empathy.errors import ConfigError, DataError
from rl_empathy.types import Row

NegativeKind = Literal["hard", "easy", "corrupted"] | EchoKind
KINDS: tuple[NegativeKind, ...] = ("hard", "easy", "corrupted", *ECHO_KINDS)
ANOTHER_TOPIC = "another_topic"
"""The kind of probe that answers a prompt of another topic."""
NUM_NEIGHBOURS = 10
"""Lexically near prompts from which a hard negative is taken where a topic gives none."""
MAX_TRIES = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Triplet:
    """A question, an answer that was given to it, and one that was not."""

    question: str
    positive: str
    negative: str
    kind: NegativeKind
    own: frozenset[str]
    """The references of the question's prompt, good or bad, as `folded` gives them."""

    def is_right(self, answer: str) -> bool:
        """Whether a text is one of the prompt's own references."""
        return folded(answer) in self.own


class TripletSource:
    """Draws triplets from rows; what is drawn depends on the seed of the draw alone, so a resume draws the same."""

    def __init__(self, rows: Sequence[Row], shares: Mapping[NegativeKind, float]) -> None:
        """Index the rows by topic, or by lexical nearness.

        Args:
            rows: Rows without a reference are passed over.
            shares: Shares of each kind of negative; scaled to sum to one.

        Raises:
            DataError: Fewer than two rows have a reference.
            ConfigError: All shares are 0.
        """
        self._rows = [row for row in rows if row.references]
        if len(self._rows) < 2:
            raise DataError(
                f"triplets need two prompts with a reference, got {len(self._rows)} of {len(rows)} rows"
            )
        if not sum(shares.values()):
            raise ConfigError(
                f"reward_modeling.negatives: every share is 0 ({dict(shares)}); give one of them weight"
            )
        self._shares = {kind: shares.get(kind, 0.0) / sum(shares.values()) for kind in KINDS}
        self._positives = [good_references(row) for row in self._rows]
        self._own = [frozenset(folded(reference.text) for reference in row.references) for row in self._rows]
        self._near, self._far = self._candidates()

    def __len__(self) -> int:
        """Prompts with a reference."""
        return len(self._rows)

    def draw(self, num: int, *, seed: str) -> list[Triplet]:
        """Draw triplets; no prompt comes a second time before every prompt has come once.

        Args:
            num: Triplets; each kind comes as often as its share says, rounded up or down at random.
            seed: Seed of this draw.
        """
        rng = random.Random(seed)
        indices: list[int] = []
        while len(indices) < num:
            indices += rng.sample(range(len(self._rows)), min(len(self._rows), num - len(indices)))
        return [self._triplet(i, kind, rng) for i, kind in zip(indices, self._kinds(num, rng), strict=True)]

    def probes(self, num: int, *, seed: str) -> list[tuple[str, list[str], dict[str, str]]]:
        """The post, the good references and one echo of each kind, for the first prompts with a reference.

        The echoes are made of phrases that training does not see. One more kind, ANOTHER_TOPIC, answers a prompt of
        another topic.

        Args:
            num: Prompts, at most.
            seed: Seed of the echoes.
        """
        probes = []
        for index, row in enumerate(self._rows[:num]):
            rng = random.Random(f"{seed}:{row.post}")
            echoes: dict[str, str] = {kind: probe_echo(kind, row.post, rng) for kind in ECHO_KINDS}
            echoes[ANOTHER_TOPIC] = rng.choice(self._positives[rng.choice(self._far[index])])
            probes.append((row.post, self._positives[index], echoes))
        return probes

    def _triplet(self, index: int, kind: NegativeKind, rng: random.Random) -> Triplet:
        positive = rng.choice(self._positives[index])
        for _ in range(MAX_TRIES):
            negative = self._negative(index, positive, kind, rng)
            if folded(negative) not in self._own[index]:
                return Triplet(
                    question=self._rows[index].post,
                    positive=positive,
                    negative=negative,
                    kind=kind,
                    own=self._own[index],
                )
        raise DataError(
            f"row {self._rows[index].id}: no {kind} negative differs from its own references in {MAX_TRIES} tries; "
            "are many references the same text?"
        )

    def _negative(self, index: int, positive: str, kind: NegativeKind, rng: random.Random) -> str:
        post = self._rows[index].post
        pool = self._near[index] if kind == "hard" else self._far[index]
        other = rng.choice(self._positives[rng.choice(pool)])
        if kind == "hard" or kind == "easy":
            return other
        return (
            corrupted(positive, post, other, rng) if kind == "corrupted" else negative_echo(kind, post, rng)
        )

    def _kinds(self, num: int, rng: random.Random) -> list[NegativeKind]:
        """Systematic sampling: a kind comes as often as its share says, rounded up or down at random."""
        ends, start = list(accumulate(num * share for share in self._shares.values())), rng.random()
        kinds = [KINDS[min(bisect_right(ends, start + i), len(KINDS) - 1)] for i in range(num)]
        rng.shuffle(kinds)
        return kinds

    def _candidates(self) -> tuple[list[list[int]], list[list[int]]]:
        """Rows for hard and for other negatives, by row."""
        topics: dict[str, list[int]] = {}
        for index, row in enumerate(self._rows):
            topics.setdefault(topic_of(row), []).append(index)
        everyone = range(len(self._rows))
        topic = [topic_of(row) for row in self._rows]
        alone = [i for i in everyone if not topic[i] or len(topics[topic[i]]) == 1]
        neighbours = lexical_neighbours([row.post for row in self._rows], alone) if alone else {}
        if alone:
            log.warning(
                "%d of %d prompts share no topic with another: their hard negatives are answers to lexically near "
                "prompts (TF-IDF)", len(alone), len(self._rows),
            )  # fmt: skip
        near: list[list[int]] = []
        far: list[list[int]] = []
        others = {name: [i for i in everyone if topic[i] != name] for name in topics if name}
        for index in everyone:
            same = neighbours.get(index) or [i for i in topics[topic[index]] if i != index]
            near.append(same)
            away = others.get(topic[index]) or [i for i in everyone if i != index and i not in set(same)]
            far.append(away or same)
        return near, far


def draw_triplets(
    rows: Sequence[Row], shares: Mapping[NegativeKind, float], num: int, seed: str
) -> list[Triplet]:
    """Draw `num` triplets; see `TripletSource`."""
    return TripletSource(rows, shares).draw(num, seed=seed)


def calibration_split(
    rows: Sequence[Row], fraction: float, *, seed: int
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Part the rows that have a reference, by prompt, in an order drawn from the seed.

    Args:
        rows: Rows without a reference are passed over.
        fraction: Share of the prompts that calibrate.
        seed: Seed of the draw; the order of `rows` changes nothing.

    Returns:
        Rows to train on, and rows to calibrate on; at least two of each.

    Raises:
        DataError: Fewer than four rows have a reference.
    """
    answered = [row for row in rows if row.references]
    if len(answered) < 4:
        raise DataError(
            f"stage reward_modeling needs four training prompts with a reference, two of them to calibrate on; got "
            f"{len(answered)} of {len(rows)} rows"
        )
    posts = sorted({row.post for row in answered}, key=lambda post: hashed(f"{seed}:calibration:{post}"))
    num = min(max(2, round(fraction * len(posts))), len(posts) - 2)
    chosen = set(posts[:num])
    return (
        tuple(row for row in answered if row.post not in chosen),
        tuple(row for row in answered if row.post in chosen),
    )


def topic_of(row: Row) -> str:
    """The topic of a row; "" where its field holds one of the words that stand for nothing, such as pandas' nan."""
    return "" if is_missing(row.topic) else row.topic


def good_references(row: Row) -> list[str]:
    """The references with at least half the votes of the best one; the best ones where none has votes above zero."""
    votes = [reference.votes or 0 for reference in row.references]
    best = max(votes)
    good = [2 * v >= best > 0 or v == best for v in votes]
    return [reference.text for reference, is_good in zip(row.references, good, strict=True) if is_good]


def lexical_neighbours(texts: Sequence[str], wanted: Sequence[int]) -> dict[int, list[int]]:
    """The nearest other texts by TF-IDF of character pairs and triples, for the wanted ones."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(analyzer="char", ngram_range=(2, 3), sublinear_tf=True, min_df=1).fit_transform(
        texts
    )
    nearest: dict[int, list[int]] = {}
    for start in range(0, len(wanted), 512):
        part = wanted[start : start + 512]
        for index, row in zip(part, (vectors[part] @ vectors.T).toarray(), strict=True):
            order = [int(i) for i in row.argsort(kind="stable")[::-1][: NUM_NEIGHBOURS + 1]]
            nearest[index] = [i for i in order if i != index][:NUM_NEIGHBOURS]
    return nearest
