"""One file a kind of term: its formula, and nothing else knows it.

A term is a class with

    __init__(config, parts)                          its section of the run file, and what the process has for it
    async score(view) -> one number a completion     None: it could not score that one, which is never a 0
    blocks                                           true where it computes on a thread: one group at a time
    remarks(config) -> lines                         may be left out: what a user should know before the run
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from rl_empathy.config.sections import RewardsConfig
from rl_empathy.rewards.parts import Parts
from rl_empathy.rewards.terms.embedding import Embedding
from rl_empathy.rewards.terms.format import Format
from rl_empathy.rewards.terms.function import Function
from rl_empathy.rewards.terms.judge import Judge
from rl_empathy.rewards.terms.trl_function import TrlFunction
from rl_empathy.rewards.view import GroupView


class Term(Protocol):
    """Scores the completions of one prompt, all of them at once: a term may look at the siblings."""

    @property
    def blocks(self) -> bool: ...

    async def score(self, view: GroupView) -> Iterable[float | None]: ...


TERMS: Mapping[str, Callable[[Any, Parts], Term]] = {
    "format": Format,
    "embedding": Embedding,
    "function": Function,
    "trl_function": TrlFunction,
    "judge": Judge,
}
"""Kinds of `rewards.terms`, each with its class in `config/sections/rewards.py`."""


def check_terms(config: RewardsConfig, parts: Parts) -> None:
    """Look whether the terms can be made, as far as that can be known before the run.

    Args:
        config: Section rewards.
        parts: Without a reward model: terms that need one are passed over.

    Raises:
        ConfigError: A function is not there or does not take its arguments, or a judge is not described well.
    """
    for term in config.terms:
        if not term.reward_models:
            TERMS[term.kind](term, parts)


def term_remarks(config: RewardsConfig) -> list[str]:
    """What a user should know of the terms before the run: a server that does not answer, for example."""
    told: list[str] = []
    for term in config.terms:
        if remarks := getattr(TERMS[term.kind], "remarks", None):
            told += remarks(term)
    return told
