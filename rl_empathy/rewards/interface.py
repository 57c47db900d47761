"""What a reward function is, and how the terms of a group become its rewards."""

import asyncio
import functools
import importlib
import inspect
import logging
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tenacity import Retrying, retry_if_not_exception_type, stop_after_attempt, wait_exponential

from rl_empathy.errors import ConfigError, RewardError
from rl_empathy.rewards.scores import WANTED, NotScoresError, items_of, score_of
from rl_empathy.schema import OutputSchema, ParsedCompletion, offsets_of_ids, span_token_masks
from rl_empathy.types import GroupRewards, RolloutGroup

log = logging.getLogger(__name__)


class RewardFunction(Protocol):
    """Scores the completions of one prompt, all of them at once: a term may look at the siblings.

    Example, a term that wants short answers (my_project/rewards.py, `function: my_project.rewards.brevity`):

        def brevity(group, parsed, *, limit: int = 600):
            answers = [p.text_of("answer") for p in parsed]
            return [max(0.0, 1 - len(answer) / limit) if answer else 0.0 for answer in answers]

    A missing answer gets the least that the term can give, or it would beat a bad one. `async def` works as well.
    """

    def __call__(
        self, group: RolloutGroup, parsed: Sequence[ParsedCompletion], **arguments: Any
    ) -> Iterable[float | None]:
        """Score every completion.

        Args:
            group: Prompt and completions.
            parsed: The completions read strictly, in their order: spans, and errors by kind.
            **arguments: From the run file.

        Returns:
            One number a completion, in their order; None where it could not be scored, which is never a 0. A number
            that is not finite counts as None.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class RewardTerm:
    """A reward function with its name and weight."""

    name: str
    function: Callable[[RolloutGroup, Sequence[ParsedCompletion]], Any]
    weight: float


def load_function(path: str) -> RewardFunction:
    """Find a reward function by its dotted path.

    Raises:
        ConfigError: There is no such module or function.
    """
    module, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
        if not callable(function):
            raise ValueError(f"it is a {type(function).__name__}, which cannot be called")
        return function  # type: ignore[no-any-return]
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"grpo.rewards: function {path!r} cannot be loaded ({error}); "
            "give format, answer, or the dotted path of a function, such as my_project.rewards.brevity"
        ) from error


class RewardScorer:
    """Turns groups into rewards by its terms."""

    def __init__(
        self,
        schema: OutputSchema,
        terms: Sequence[RewardTerm],
        decode: Callable[[list[int]], str],
        *,
        retries: int,
        have_worked: bool = False,
    ) -> None:
        """Nothing is scored yet.

        Args:
            schema: What a completion should look like.
            terms: What is rewarded.
            decode: Token ids to text, special tokens kept; gives the spans their lengths in tokens.
            retries: How often a term that raises is asked again, after 0.5, 1, 2 … s.
            have_worked: The terms have in this run, before this process: when one raises, it is no mistake.
        """
        self._schema = schema
        self._terms = terms
        self._decode = decode
        self._retries = retries
        self._worked = {term.name for term in terms} if have_worked else set()

    def score(self, group: RolloutGroup) -> GroupRewards:
        """Parse the completions and sum the weighted terms.

        A term that raises again and again has no score for this group; one that never worked is a mistake of the
        run file or the function, and ends the run.

        Args:
            group: Prompt and completions.

        Returns:
            Raw terms, totals, schema errors and span lengths, completion by completion.

        Raises:
            RewardError: A term raised, or gave something that is no number, and has not worked yet; or it gave anything
                but one score a completion. The text names term and prompt, and says what came.
        """
        parsed = [self._schema.parse(completion.text, strict=True) for completion in group.completions]
        scores = {term.name: self._scores(term, group, parsed) for term in self._terms}
        columns = zip(*scores.values(), strict=True) if scores else [(None,)] * len(parsed)
        return GroupRewards(
            terms=scores,
            totals=tuple(self._total(column) for column in columns),
            errors=tuple(tuple(p.errors) for p in parsed),
            span_tokens=tuple(
                _span_tokens(completion.token_ids, completion.finish_reason == "stop", p, self._decode)
                for completion, p in zip(group.completions, parsed, strict=True)
            ),
        )

    def _total(self, scores: Sequence[float | None]) -> float | None:
        """None where a term has no score, or where there are no terms: in an evaluation without a reward model."""
        known = [score for score in scores if score is not None]
        if len(known) < len(scores):
            return None
        return sum(term.weight * score for term, score in zip(self._terms, known, strict=True))

    def _scores(
        self, term: RewardTerm, group: RolloutGroup, parsed: Sequence[ParsedCompletion]
    ) -> tuple[float | None, ...]:
        where = f"reward term {term.name}, prompt {group.prompt.row.id}"
        asking = Retrying(
            retry=retry_if_not_exception_type(NotScoresError),
            stop=stop_after_attempt(1 + self._retries),
            wait=wait_exponential(0.5, max=30),
            reraise=True,
        )
        try:
            given = asking(self._given, term, group, parsed)
        except NotScoresError as error:
            raise RewardError(f"{where}: {error}") from None
        except Exception as error:
            if term.name not in self._worked:
                raise RewardError(f"{where}: {type(error).__name__}: {error}") from error
            log.warning("%s has no scores after %d attempts", where, 1 + self._retries, exc_info=True)
            return (None,) * len(parsed)
        scores = tuple(self._score(item, f"{where}, completion {n}", term) for n, item in enumerate(given))
        self._worked.add(term.name)
        return scores

    def _given(self, term: RewardTerm, group: RolloutGroup, parsed: Sequence[ParsedCompletion]) -> list[Any]:
        given = term.function(group, parsed)
        if inspect.isawaitable(given):
            given = self._loop.run_until_complete(given)
        return items_of(given, len(parsed))

    def _score(self, item: Any, where: str, term: RewardTerm) -> float | None:
        """One that is no number is a mistake as long as the term has not worked; later it has no score."""
        try:
            score = score_of(item)
        except NotScoresError as error:
            if term.name not in self._worked:
                raise RewardError(f"{where}: {error}; {WANTED}") from None
            log.warning("%s has no score: %s", where, error)
            return None
        if score is None and item is not None:
            log.warning("%s has no score: it gave %s", where, item)
        return score

    @functools.cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """One for all calls: what a coroutine keeps (a client, a pool of connections) belongs to its loop."""
        loop = asyncio.new_event_loop()
        weakref.finalize(self, loop.close)
        return loop


def _span_tokens(
    token_ids: Sequence[int], ends: bool, parsed: ParsedCompletion, decode: Callable[[list[int]], str]
) -> Mapping[str, int]:
    written = list(token_ids[:-1] if ends else token_ids)
    masks = span_token_masks(parsed.spans, offsets_of_ids(written, decode))
    return {name: sum(mask) for name, mask in masks.items()}
