"""What is measured of completions, one file a measure.

form        does a completion keep the form of the schema, and how long is it
scores      what the scorers said: the reward, its terms, likeness to the post
length      characters of the answer
rouge, bleu word order and runs of words shared with the references
copying     how much of the answer stands in the post
distinct    how different the words of the answers are
grounding   is the reasoning about this very post
own         a measure of the user's
measure     what all of them have
"""

import re
from collections.abc import Sequence

from rl_empathy.evaluation.measures import bleu, copying, distinct, form, grounding, length, rouge, scores
from rl_empathy.evaluation.measures.measure import Described, Measure

MEASURES: Sequence[Measure] = (form, scores, length, rouge, copying, grounding, bleu, distinct)
"""In the order in which all of them are shown."""
_TOTAL, *_REST = (
    "reward/mean",
    "text/similarity_to_post",
    "text/copy_fraction",
    "schema/valid_fraction",
    "rollout/truncated_fraction",
    "text/answer_length_characters",
    "text/rouge_l",
    "text/distinct_2",
    "trace/grounded_fraction",
)


def leading(terms: Sequence[str], own: Sequence[str] = ()) -> tuple[str, ...]:
    """The measures that a table leads with; copying stands beside every likeness.

    Args:
        terms: Reward terms that are among them, by name.
        own: Names of measures of the user's.
    """
    return (_TOTAL, *(f"reward/{term}/mean" for term in terms), *own, *_REST)


def described(name: str, measures: Sequence[Measure] = MEASURES) -> Described:
    """What a measure is.

    Raises:
        KeyError: No measure has that name.
    """
    known = {pattern: of for measure in measures for pattern, of in measure.DESCRIBED.items()}
    if name in known:
        return known[name]
    for pattern, of in known.items():
        if match := re.fullmatch(pattern, name):
            return of._replace(meaning=of.meaning.format(*match.groups()))
    raise KeyError(name)
