"""What a reward function is, and how the terms of a group become its rewards."""

import importlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rl_empathy.errors import ConfigError, RewardError
from rl_empathy.schema import OutputSchema, ParsedCompletion, offsets_of_ids, span_token_masks
from rl_empathy.types import GroupRewards, RolloutGroup


class RewardFunction(Protocol):
    """Scores the completions of one prompt, all of them at once: a term may look at the siblings.

    Example, a term that wants short answers (my_project/rewards.py, `function: my_project.rewards.brevity`):

        def brevity(group, parsed, *, limit: int = 600):
            return [max(0.0, 1 - len(p.text_of("answer")) / limit) for p in parsed]
    """

    def __call__(
        self, group: RolloutGroup, parsed: Sequence[ParsedCompletion], **arguments: Any
    ) -> Sequence[float | None]:
        """Score every completion.

        Args:
            group: Prompt and completions.
            parsed: The completions read strictly, in their order: spans, and errors by kind.
            **arguments: From the run file.

        Returns:
            One number a completion; None where it could not be scored, which is never a 0 (C3).
        """
        ...


@dataclass(frozen=True, kw_only=True)
class RewardTerm:
    """A reward function with its name and weight."""

    name: str
    function: Callable[[RolloutGroup, Sequence[ParsedCompletion]], Sequence[float | None]]
    weight: float


def load_function(path: str) -> RewardFunction:
    """Find a reward function by its dotted path.

    Raises:
        ConfigError: There is no such module or function.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"grpo.rewards: function {path!r} cannot be loaded ({error}); "
            "give format, answer, or the dotted path of a function, such as my_project.rewards.brevity"
        ) from error


def score_group(
    group: RolloutGroup,
    *,
    schema: OutputSchema,
    terms: Sequence[RewardTerm],
    decode: Callable[[list[int]], str],
) -> GroupRewards:
    """Parse the completions and sum the weighted terms.

    Args:
        group: Prompt and completions.
        schema: What a completion should look like.
        terms: What is rewarded.
        decode: Token ids to text, special tokens kept; gives the spans their lengths in tokens.

    Returns:
        Raw terms, totals, schema errors and span lengths, completion by completion.

    Raises:
        RewardError: A term raised, or gave a wrong number of scores; the text names term and prompt.
    """
    started = time.monotonic()
    parsed = [schema.parse(completion.text, strict=True) for completion in group.completions]
    scores = {term.name: _scores(term, group, parsed) for term in terms}
    totals = tuple(
        None
        if any(score is None for score in column)
        else sum(term.weight * score for term, score in zip(terms, column, strict=True) if score is not None)
        for column in zip(*scores.values(), strict=True)
    )
    return GroupRewards(
        terms=scores,
        totals=totals,
        errors=tuple(tuple(p.errors) for p in parsed),
        span_tokens=tuple(
            _span_tokens(completion.token_ids, completion.finish_reason == "stop", p, decode)
            for completion, p in zip(group.completions, parsed, strict=True)
        ),
        score_s=time.monotonic() - started,
    )


def _scores(
    term: RewardTerm, group: RolloutGroup, parsed: Sequence[ParsedCompletion]
) -> tuple[float | None, ...]:
    where = f"reward term {term.name}, prompt {group.prompt.row.id}"
    try:
        scores = term.function(group, parsed)
    except Exception as error:
        raise RewardError(f"{where}: {type(error).__name__}: {error}") from error
    if len(scores) != len(parsed):
        raise RewardError(f"{where}: {len(scores)} scores for {len(parsed)} completions")
    return tuple(None if score is None or not math.isfinite(score) else float(score) for score in scores)


def _span_tokens(
    token_ids: Sequence[int], ends: bool, parsed: ParsedCompletion, decode: Callable[[list[int]], str]
) -> Mapping[str, int]:
    written = list(token_ids[:-1] if ends else token_ids)
    masks = span_token_masks(parsed.spans, offsets_of_ids(written, decode))
    return {name: sum(mask) for name, mask in masks.items()}
