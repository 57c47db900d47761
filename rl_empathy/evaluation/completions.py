"""Scored completions to values: for every measure, the values of each prompt's completions."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rl_empathy.errors import DataError
from rl_empathy.evaluation.measures import Language, bleu, copy_rate, distinct, grounding, rouge_l
from rl_empathy.schema import ERROR_KINDS, OutputSchema, ParsedCompletion
from rl_empathy.types import FinishReason, Row, conversation_text

ValuesByMeasure = dict[str, dict[str, list[float]]]
"""Measure to prompt id to the values of its completions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredCompletion:
    """What one model wrote for one held-out prompt, and what the scorers said of it.

    Example with the terms of Empathy-R1:
        rewards = {"format": 1.0, "answer": 0.71},  reward = 1.71 (their weighted sum)
    """

    prompt_id: str
    """Id of the row."""
    text: str
    """Special tokens kept, without the end token."""
    finish_reason: FinishReason
    tokens: int
    """Length, tokens."""
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    """Reward terms before weights; None where a term failed, which is left out of the means."""
    reward: float | None = None
    """Weighted sum of the terms; None when one failed, or when nothing scored it."""
    similarity_to_post: float | None = None
    """Cosine of the answer with the post, by evaluate.similarity_encoder; a copy has 1. None: not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """A completion, read both ways: strict for validity, lenient for the text of its spans."""

    scored: ScoredCompletion
    strict: ParsedCompletion
    lenient: ParsedCompletion


def rows_sha256(rows: Sequence[Row]) -> str:
    """Fingerprint of the held-out prompts: ids, messages and references in this order, as canonical JSON."""
    digest = hashlib.sha256()
    for row in rows:
        record = {
            "id": row.id,
            "messages": [[message.role, message.content] for message in row.messages],
            "references": [reference.text for reference in row.references],
        }
        digest.update(json.dumps(record, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def shuffled_posts(rows: Sequence[Row], seed: int) -> dict[str, str]:
    """Give every row the post of another one: each post is given once. Empty when there is one row only."""
    if len(rows) < 2:
        return {}
    order = np.random.default_rng(seed).permutation(len(rows))
    return {rows[here].id: rows[there].post for here, there in zip(order, np.roll(order, 1), strict=True)}


def values_by_measure(
    rows: Sequence[Row],
    completions: Mapping[str, Sequence[ScoredCompletion]],
    schema: OutputSchema,
    language: Language,
    *,
    seed: int,
) -> tuple[ValuesByMeasure, dict[str, float]]:
    """Measure every completion.

    The answer is read leniently; where it is absent it is the empty text: ROUGE-L and BLEU are 0, while the
    copied fraction, which has nothing to be a fraction of, is left out. Rows without references have no
    ROUGE-L and BLEU. Distinct-n is one value a prompt, over all its completions. The other post that
    grounding compares with depends on the rows and the seed only, so it is the same for every model.

    Returns:
        The values by measure and prompt, and the measures that only the whole corpus has.

    Raises:
        DataError: Two rows share an id, or completions belong to none of the rows.
    """
    _check_ids(rows, completions)
    values: ValuesByMeasure = defaultdict(dict)
    others = shuffled_posts(rows, seed)
    read = {row.id: [_read(scored, schema) for scored in completions.get(row.id, ())] for row in rows}
    for row in rows:
        for one in read[row.id]:
            measured = [*_form(one, schema), *_scores(one), *_text(one, row, schema, language)]
            for measure, value in [*measured, *_trace(one, row, others.get(row.id), schema, language)]:
                values[measure].setdefault(row.id, []).append(value)
    answers = {row.id: [one.lenient.text_of(schema.answer) for one in read[row.id]] for row in rows}
    corpus = _bleu(rows, answers, language, values) | _distinct(answers, language, values)
    return dict(values), corpus


def _check_ids(rows: Sequence[Row], completions: Mapping[str, Sequence[ScoredCompletion]]) -> None:
    ids = {row.id for row in rows}
    if len(ids) < len(rows):
        raise DataError(f"{len(rows)} held-out rows share {len(ids)} ids; make the ids differ")
    if strangers := [prompt for prompt in completions if prompt not in ids]:
        raise DataError(f"completions for {strangers[0]!r}, which is none of the {len(rows)} held-out rows")


def _read(scored: ScoredCompletion, schema: OutputSchema) -> _Read:
    strict, lenient = (schema.parse(scored.text, strict=strict) for strict in (True, False))
    return _Read(scored=scored, strict=strict, lenient=lenient)


def _form(one: _Read, schema: OutputSchema) -> Iterator[tuple[str, float]]:
    yield "schema/valid_fraction", float(one.strict.valid and one.scored.finish_reason == "stop")
    for kind in ERROR_KINDS:
        yield f"schema/error/{kind}_fraction", float(kind in one.strict.errors)
    yield "rollout/completion_length_tokens", float(one.scored.tokens)
    yield "rollout/truncated_fraction", float(one.scored.finish_reason == "length")
    for name in schema.span_names:
        yield f"span/{name}/present_fraction", float(name in one.lenient.spans)
        if name in one.lenient.spans:
            yield f"span/{name}/length_characters", float(len(one.lenient.text_of(name)))


def _scores(one: _Read) -> Iterator[tuple[str, float]]:
    scores = {
        "reward/mean": one.scored.reward,
        **{f"reward/{term}/mean": reward for term, reward in one.scored.rewards.items()},
        "text/similarity_to_post": one.scored.similarity_to_post,
    }
    yield from ((measure, score) for measure, score in scores.items() if score is not None)


def _text(one: _Read, row: Row, schema: OutputSchema, language: Language) -> Iterator[tuple[str, float]]:
    answer = one.lenient.text_of(schema.answer)
    yield "text/answer_length_characters", float(len(answer))
    if row.references:
        yield "text/rouge_l", rouge_l(answer, [reference.text for reference in row.references], language)
    copied = copy_rate(answer, conversation_text(row.messages), language)
    if copied is not None:
        yield "text/copy_fraction", copied


def _trace(
    one: _Read, row: Row, other_post: str | None, schema: OutputSchema, language: Language
) -> Iterator[tuple[str, float]]:
    if other_post is not None and len(schema.span_names) > 1:
        trace = schema.reasoning(one.lenient)
        yield "trace/grounded_fraction", grounding(trace, row.post, other_post, language)


def _bleu(
    rows: Sequence[Row], answers: Mapping[str, Sequence[str]], language: Language, values: ValuesByMeasure
) -> dict[str, float]:
    """Add BLEU of every answer to `values`; give back that of the corpus."""
    pairs = [(row, answer) for row in rows if row.references for answer in answers[row.id]]
    if not pairs:
        return {}
    references = [[reference.text for reference in row.references] for row, _ in pairs]
    scores = bleu([answer for _, answer in pairs], references, language)
    for (row, _), score in zip(pairs, scores.sentences, strict=True):
        values["text/bleu"].setdefault(row.id, []).append(score)
    return {"text/bleu_corpus": scores.corpus}


def _distinct(
    answers: Mapping[str, Sequence[str]], language: Language, values: ValuesByMeasure
) -> dict[str, float]:
    """Add Distinct-1 and -2 of every prompt's answers to `values`; give back those of the corpus."""
    corpus: dict[str, float] = {}
    for n in (1, 2):
        by_prompt = {prompt: distinct(texts, n, language) for prompt, texts in answers.items()}
        for prompt, value in by_prompt.items():
            if value is not None:
                values[f"text/distinct_{n}"][prompt] = [value]
        whole = distinct([text for texts in answers.values() for text in texts], n, language)
        if whole is not None:
            corpus[f"text/distinct_{n}_corpus"] = whole
    return corpus
