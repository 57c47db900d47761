"""How much of an answer is the post's own words. Pure functions of text; English and Chinese.

A similarity to the post pays most for the post itself. Two things take that away:

    without_copied_runs   what the answer says in the post's own runs of words is taken out before it is compared
    own_words_factor      an answer of scattered words of the post loses by their share

The first and the second person count as one word, so "my boss shouts at me" copies "your boss shouts at you".
"""

import re
from typing import NamedTuple

RUN = 3
"""Words in a row that count as copied."""
CHINESE_RUN = 5
"""The same in Chinese, characters: about three words."""
_CHARACTER = r"[\u3400-\u9fff]"
_WORD = re.compile(rf"{_CHARACTER}|[^\W_\u3400-\u9fff]+")
_PERSON = "i me my myself mine we us our ours you your yours yourself 我 你 您"
_PERSONS = dict.fromkeys(_PERSON.split(), "person")
_VERBS = {"am": "are", "m": "re", "was": "were"}


class _Word(NamedTuple):
    text: str
    start: int
    end: int

    @property
    def weight(self) -> int:
        """Letters beyond two, since longer words carry more; 0 for a person, 1 for a Chinese character."""
        if self.text == "person":
            return 0
        return 1 if re.match(_CHARACTER, self.text) else max(0, self.end - self.start - 2)


def copied_fraction(answer: str, post: str) -> float:
    """Share of the answer's different words that stand in the post, by their weight; 0 where no word weighs.

    Different words, so that a filler between the words of the post dilutes nothing. A word weighs its letters beyond
    two, so that comfort made of short words does not hide the content words of a post; a Chinese character weighs 1.

    Args:
        answer: The answer.
        post: The post.

    Returns:
        In 0..1. Counsellors reach 0.1 to 0.6, since topic and common words are in both; an echo reaches 1.
    """
    known = {word.text for word in _words(post)}
    weights = {word.text: word.weight for word in _words(answer)}
    total = sum(weights.values())
    return sum(weight for text, weight in weights.items() if text in known) / total if total else 0.0


def own_words_factor(copied: float, *, limit: float) -> float:
    """What is left of a reward when more of an answer is copied than counsellors copy.

        1 where copied ≤ limit,  ((1 - copied) / (1 - limit))² above: 0 when every word is copied

    The square, since the similarity that copied words buy rises fastest at the beginning: half of a post's words
    among comfort already buy most of it.

    Args:
        copied: `copied_fraction` of the answer.
        limit: What one reference in ten exceeds, in [0, 1).

    Returns:
        In 0..1.
    """
    return min(1.0, (1 - copied) / (1 - limit)) ** 2


def without_copied_runs(answer: str, post: str) -> str:
    """The answer without every run of RUN words (CHINESE_RUN characters) that stands in the post.

    Args:
        answer: The answer.
        post: The post.

    Returns:
        What is left, with its punctuation; empty when all of it was copied.
    """
    words, post_words = _words(answer), _words(post)
    copied = [False] * len(words)
    for length in (RUN, CHINESE_RUN):
        known = {texts for _, texts in _runs(post_words, length)}
        for start, texts in _runs(words, length):
            if texts in known:
                copied[start : start + length] = [True] * length
    kept, position = [], 0
    for word, gone in zip(words, copied, strict=True):
        if gone:
            kept.append(answer[position : word.start])
            position = word.end
    rest = "".join([*kept, answer[position:]])
    return " ".join(rest.split()) if _WORD.search(rest) else ""


def _words(text: str) -> list[_Word]:
    found = ((match[0].lower(), match.start(), match.end()) for match in _WORD.finditer(text))
    return [_Word(_PERSONS.get(word, _VERBS.get(word, word)), start, end) for word, start, end in found]


def _runs(words: list[_Word], length: int) -> list[tuple[int, tuple[str, ...]]]:
    """Where each run of so many words starts; runs with as many Chinese characters as CHINESE_RUN or none."""
    chinese = [re.match(_CHARACTER, word.text) is not None for word in words]
    return [
        (start, tuple(word.text for word in words[start : start + length]))
        for start in range(len(words) - length + 1)
        if length == CHINESE_RUN or not any(chinese[start : start + length])
    ]
