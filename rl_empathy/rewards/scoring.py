"""How the terms of the reward score a group: side by side, each with its deadline, its retries and what it may see."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from tenacity import AsyncRetrying, retry_if_not_exception_type, stop_after_attempt, wait_exponential

from rl_empathy.config.sections.rewards import Combiner, RewardsConfig, TermConfig
from rl_empathy.errors import RewardError, RoleTimeoutError
from rl_empathy.rewards.combiners import COMBINERS
from rl_empathy.rewards.parts import Parts
from rl_empathy.rewards.scores import WANTED, NotScoresError, items_of
from rl_empathy.rewards.terms import TERMS, Term
from rl_empathy.rewards.view import GroupView, view_of
from rl_empathy.schema import OutputSchema, ParsedCompletion, offsets_of_ids, span_token_masks
from rl_empathy.types import GroupRewards, RolloutGroup
from rl_empathy.user_code import NotANumberError, number_of, raised

log = logging.getLogger(__name__)


def scored_terms(config: RewardsConfig, parts: Parts, *, have_worked: bool) -> "list[ScoredTerm]":
    """The terms of a run file.

    Raises:
        ConfigError: A function is not there, or does not take its arguments.
    """
    return [ScoredTerm(term, TERMS[term.kind](term, parts), has_worked=have_worked) for term in config.terms]


class RewardScorer:
    """Turns groups into rewards."""

    def __init__(
        self,
        schema: OutputSchema,
        terms: "Sequence[ScoredTerm]",
        decode: Callable[[list[int]], str],
        *,
        combine: Combiner = "sum",
    ) -> None:
        """Nothing is scored yet.

        Args:
            schema: What a completion should look like.
            terms: What is rewarded.
            decode: Token ids to text, special tokens kept; gives the spans their lengths in tokens.
            combine: How the terms become one number.
        """
        self._schema = schema
        self._terms = terms
        self._combine = COMBINERS[combine]
        self._weights = {term.config.name: term.config.weight for term in terms}
        self._decode = decode

    async def score(self, group: RolloutGroup) -> GroupRewards:
        """Read the completions, and combine what the terms say of them.

        A term that raises again and again has no score for this group; one that never worked is a mistake of the
        run file or the function, and ends the run.

        Args:
            group: Prompt and completions.

        Returns:
            Raw terms, totals, schema errors and span lengths, completion by completion.

        Raises:
            RewardError: A term raised, or gave something that is no number, and has not worked yet; or it gave anything
                but one score a completion. The text names term and prompt, and says what came.
            RoleTimeoutError: A term that computes on a thread did not end; only the end of this process ends it.
        """
        parsed = [self._schema.parse(completion.text, strict=True) for completion in group.completions]
        views = [view_of(group, parsed, self._schema, term.config.sees) for term in self._terms]
        scored = await asyncio.gather(
            *(term.score(view) for term, view in zip(self._terms, views, strict=True))
        )
        columns = list(zip(*scored, strict=True)) if scored else [()] * len(parsed)
        return GroupRewards(
            terms={term.config.name: scores for term, scores in zip(self._terms, scored, strict=True)},
            weights=self._weights,
            totals=tuple(self._combine(column, list(self._weights.values())) for column in columns),
            errors=tuple(tuple(p.errors) for p in parsed),
            span_tokens=tuple(
                _span_tokens(completion.token_ids, completion.finish_reason == "stop", p, self._decode)
                for completion, p in zip(group.completions, parsed, strict=True)
            ),
        )


class ScoredTerm:
    """A term with its deadline, its retries and its failures."""

    def __init__(self, config: TermConfig, term: Term, *, has_worked: bool = False) -> None:
        """Nothing is scored yet.

        Args:
            config: Its entry in rewards.terms.
            term: What computes it.
            has_worked: It has in this run, before this process: when it raises, it is no mistake.
        """
        self.config = config
        self._term = term
        self._has_worked = has_worked
        self._gate = asyncio.Lock() if self._term.blocks else nullcontext()

    async def score(self, view: GroupView) -> tuple[float | None, ...]:
        """One score a completion; see `RewardScorer.score`."""
        where = f"reward term {self.config.name}, prompt {view.row.id}"
        asking = AsyncRetrying(
            retry=retry_if_not_exception_type((NotScoresError, RoleTimeoutError)),
            stop=stop_after_attempt(1 + self.config.retries),
            wait=wait_exponential(0.5, max=30),
            reraise=True,
        )
        try:
            given: list[Any] = await asking(self._given, view, where)
        except NotScoresError as error:
            raise RewardError(f"{where}: {error}") from None
        except RoleTimeoutError:
            raise
        except Exception as error:
            if not self._has_worked:
                raise RewardError(f"{where}: {raised(error)}") from error
            log.warning("%s has no scores after %d attempts", where, 1 + self.config.retries, exc_info=True)
            return (None,) * len(view.completions)
        scores = tuple(self._score(item, f"{where}, completion {n}") for n, item in enumerate(given))
        self._has_worked = True
        return scores

    async def _given(self, view: GroupView, where: str) -> list[Any]:
        seconds = self.config.deadline_s
        async with self._gate:
            try:
                async with asyncio.timeout(seconds) as deadline:
                    return items_of(await self._term.score(view), len(view.completions))
            except TimeoutError:
                if not deadline.expired():
                    raise
                late = f"{where} did not end within {seconds:g} s (deadline_s)"
                raise RoleTimeoutError(late) if self._term.blocks else TimeoutError(late) from None

    def _score(self, item: Any, where: str) -> float | None:
        """One that is no number is a mistake as long as the term has not worked; later it has no score, never a 0."""
        try:
            score = number_of(item)
        except NotANumberError as error:
            if not self._has_worked:
                raise RewardError(f"{where}: {error}; {WANTED}") from None
            log.warning("%s has no score: %s", where, error)
            return None
        if score is None and item is not None:
            log.warning("%s has no score: it gave %s", where, item)
        if score is None or self.config.clip is None:
            return score
        least, most = self.config.clip
        return min(max(score, least), most)


def _span_tokens(
    token_ids: Sequence[int], ends: bool, parsed: ParsedCompletion, decode: Callable[[list[int]], str]
) -> Mapping[str, int]:
    written = list(token_ids[:-1] if ends else token_ids)
    masks = span_token_masks(parsed.spans, offsets_of_ids(written, decode))
    return {name: sum(mask) for name, mask in masks.items()}
