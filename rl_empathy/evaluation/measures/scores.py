"""What the scorers said: the reward, its terms, likeness to the post."""

from collections.abc import Iterator

from rl_empathy.evaluation.measures.measure import Described, Evaluated, Measured, ReadCompletion, of_each
from rl_empathy.types import Row

DESCRIBED = {
    "reward/mean": Described("higher", "weighted sum of the reward terms, which stage grpo trains on"),
    r"reward/(.+)/mean": Described(
        "higher", "the reward term {0}, before its weight, which stage grpo trains on"
    ),
    "text/similarity_to_post": Described("neither", "likeness of answer and post: a copy of the post has 1"),
}


def measured(evaluated: Evaluated) -> Measured:
    def values(one: ReadCompletion, row: Row) -> Iterator[tuple[str, float]]:
        scores = {
            "reward/mean": one.scored.reward,
            **{f"reward/{term}/mean": reward for term, reward in one.scored.rewards.items()},
            "text/similarity_to_post": one.scored.similarity_to_post,
        }
        yield from ((measure, score) for measure, score in scores.items() if score is not None)

    return of_each(evaluated, values)
