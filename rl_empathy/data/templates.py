"""The offline template teacher: four-layer traces by rule, without a model.

What it is: a lexicon of emotion words, markers of cause, belief and kind of support, and a few frames,
filled with clauses of the very post. The same row gives the same trace; the row's id chooses among the
frames. It lets a run start without any teacher model, and gives the format something to hold on to.
What it is not: understanding. It sees the plainest negation at most, no irony, and not who feels what.
For traces worth learning from, use teacher `openai`, or write them.

Every layer has 8 to 25 words in English and 15 to 40 characters in Chinese, whatever the post.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from rl_empathy.data.risk import speaks_of_risk
from rl_empathy.data.template_phrases import ENGLISH, Phrases
from rl_empathy.data.template_phrases_zh import CHINESE
from rl_empathy.data.text import cleaned
from rl_empathy.types import Row, Trace

LAYERS = ("L1", "L2", "L3", "L4")

_MARKS = re.compile(r"[“”\"<>{}\[\]|`«»「」『』*_#\\]")


def template_trace(row: Row, language: Literal["en", "zh"]) -> Trace:
    """Write the four layers for the last user message of a row, by rule."""
    phrases = CHINESE if language == "zh" else ENGLISH
    post = _MARKS.sub("", cleaned(row.post))
    understanding = _understanding(post, row.id, phrases)
    risk = speaks_of_risk(row.post)
    response = _safety(risk, phrases) if risk else _response(post, row.id, phrases)
    return Trace(spans=dict(zip(LAYERS, (*understanding, *response), strict=True)), teacher="template")


def _understanding(post: str, row_id: str, phrases: Phrases) -> tuple[str, str]:
    """Emotions and context; cause and belief."""
    clauses = _clauses(post, phrases)
    situation = _clause_with_feeling(clauses, phrases) or _fullest(clauses, but="")
    beliefs = _labels(phrases.beliefs, post) or [phrases.usual_belief]
    first = _chosen(phrases.emotion_frames, f"{row_id}:L1").format(
        feeling=_feeling(post, phrases), situation=_cut(situation, phrases.clause_size, phrases)
    )
    second = _chosen(phrases.cause_frames, f"{row_id}:L2").format(
        cause=_cause(post, situation, phrases), belief=beliefs[0]
    )
    return first, second


def _response(post: str, row_id: str, phrases: Phrases) -> tuple[str, str]:
    """Kind of support asked for; plan of the reply."""
    sentences = _parts(post, phrases.sentence_end)
    question = next((s for s in reversed(sentences) if re.search(phrases.question, s)), "")
    support = next(
        kind for kind in phrases.needs if re.search(phrases.support[kind], question, re.IGNORECASE)
    )
    frames = phrases.asked_frames if question else phrases.unasked_frames
    last = _clauses(question or post, phrases)[-1]
    third = _chosen(frames, f"{row_id}:L3").format(
        quote=_cut(last, phrases.quote_size, phrases), need=phrases.needs[support]
    )
    focus = next(filter(None, (_most_common(p, post) for p in phrases.focus)), last)
    fourth = _chosen(phrases.plan_frames, f"{row_id}:L4").format(
        feeling=_feeling(post, phrases),
        focus=_cut(focus, phrases.focus_size, phrases),
        step=phrases.steps[support],
    )
    return third, fourth


def _safety(risk: str, phrases: Phrases) -> tuple[str, str]:
    quote = _cut(risk, phrases.risk_size, phrases)
    return phrases.safety_need.format(risk=quote), phrases.safety_plan.format(risk=quote)


def _feeling(post: str, phrases: Phrases) -> str:
    return phrases.conjunction.join((_labels(phrases.feelings, post) or [phrases.usual_feeling])[:2])


def _cause(post: str, situation: str, phrases: Phrases) -> str:
    """Give the clause behind a word of cause, else the fullest one that is neither situation nor question."""
    marked = re.search(phrases.cause, post, re.IGNORECASE)
    cause = _clauses(post[marked.end() :], phrases)[0] if marked else ""
    if len(cause) < phrases.shortest_clause:
        told = [s for s in _parts(post, phrases.sentence_end) if not re.search(phrases.question, s)]
        cause = _fullest(_clauses("\n".join(told), phrases) if told else [situation], but=situation)
    return _cut(cause, phrases.quote_size, phrases)


def _labels(patterns: Iterable[tuple[str, str]], post: str) -> list[str]:
    """Labels whose pattern the post holds, in the order in which it first does."""
    found = [
        (match.start(), label)
        for label, pattern in patterns
        if (match := re.search(pattern, post, re.IGNORECASE))
    ]
    return [label for _, label in sorted(found)]


def _clauses(text: str, phrases: Phrases) -> list[str]:
    return _parts(text, phrases.clause_end) or [phrases.nothing_said]


def _parts(text: str, end: str) -> list[str]:
    parts = (" ".join(part.split()).strip(" '’‘-–—.,;:，。") for part in re.split(end, text))
    return [part for part in parts if re.search(r"\w", part)]


def _clause_with_feeling(clauses: Sequence[str], phrases: Phrases) -> str:
    patterns = "|".join(pattern for _, pattern in phrases.feelings)
    felt = [clause for clause in clauses if re.search(patterns, clause, re.IGNORECASE)]
    return next((clause for clause in felt if len(clause) >= phrases.shortest_clause), "")


def _fullest(clauses: Sequence[str], *, but: str) -> str:
    """Give the longest clause, but for one that is taken already."""
    return max((clause for clause in clauses if clause != but), key=len, default=clauses[0])


def _most_common(pattern: str, post: str) -> str:
    found = Counter(re.findall(pattern, post.lower()))
    return found.most_common(1)[0][0] if found else ""


def _cut(text: str, size: int, phrases: Phrases) -> str:
    """Give the first `size` words or characters, without a dangling small word at the end."""
    if not phrases.counts_words:
        return "".join(text.split())[:size]
    words = [word[:24] for word in text.split()][:size]
    if len(text.split()) > size:
        while len(words) > 2 and words[-1].lower() in phrases.small_words:
            words.pop()
    return " ".join(words)


def _chosen(options: Sequence[str], key: str) -> str:
    return options[int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % len(options)]
