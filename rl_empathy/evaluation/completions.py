"""Scored completions to values: for every measure, the values of each prompt's completions."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from rl_empathy.errors import DataError
from rl_empathy.evaluation.measures import MEASURES
from rl_empathy.evaluation.measures.measure import Evaluated, Measure, ReadCompletion
from rl_empathy.evaluation.scored import ScoredCompletion
from rl_empathy.evaluation.words import Language
from rl_empathy.schema import OutputSchema
from rl_empathy.types import Row

ValuesByMeasure = dict[str, dict[str, list[float]]]
"""Measure to prompt id to the values of its completions."""


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
    measures: Sequence[Measure] = MEASURES,
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
    evaluated = Evaluated(
        rows=rows,
        completions={
            row.id: [read_completion(scored, schema) for scored in completions.get(row.id, ())]
            for row in rows
        },
        schema=schema,
        language=language,
        other_posts=shuffled_posts(rows, seed),
    )
    values: ValuesByMeasure = {}
    corpus: dict[str, float] = {}
    for measure in measures:
        found = measure.measured(evaluated)
        values |= {name: dict(by_prompt) for name, by_prompt in found.values.items()}
        corpus |= found.corpus
    return values, corpus


def _check_ids(rows: Sequence[Row], completions: Mapping[str, Sequence[ScoredCompletion]]) -> None:
    ids = {row.id for row in rows}
    if len(ids) < len(rows):
        raise DataError(f"{len(rows)} held-out rows share {len(ids)} ids; make the ids differ")
    if strangers := [prompt for prompt in completions if prompt not in ids]:
        raise DataError(f"completions for {strangers[0]!r}, which is none of the {len(rows)} held-out rows")


def read_completion(scored: ScoredCompletion, schema: OutputSchema) -> ReadCompletion:
    """Read a completion both ways."""
    strict, lenient = (schema.parse(scored.text, strict=strict) for strict in (True, False))
    return ReadCompletion(
        scored=scored, strict=strict, lenient=lenient, answer=lenient.text_of(schema.answer)
    )
