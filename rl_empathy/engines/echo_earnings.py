"""What replies that only echo the post would earn, beside what counsellors wrote. Knows no Ray.

kind            median   wins       wins: the share of the references of a prompt that earn no more, averaged over
references       0.56                     the prompts
copy             0.00    0.0 %
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median

from torch import Tensor

REFERENCES = "references"
Score = Callable[[Sequence[tuple[str, str]]], Tensor]
"""[(question, answer)] -> [pairs] scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A post with its references, and one echo of each kind."""

    post: str
    references: tuple[str, ...]
    echoes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Earnings:
    """What one kind of reply earns over all probes."""

    median: float
    win_fraction: float
    """In 0..1; for the references themselves 0."""


def echo_earnings(score: Score, probes: Sequence[Probe]) -> dict[str, Earnings]:
    """Score every reference and echo.

    Args:
        score: Score of the reward model.
        probes: At least one; the same kinds of echo in each.

    Returns:
        The references first, then the kinds of echo in the order of the probes.
    """
    pairs = [(p.post, text) for p in probes for text in (*p.references, *p.echoes.values())]
    scores = iter(score(pairs).tolist())
    earned = [
        ([next(scores) for _ in p.references], {kind: next(scores) for kind in p.echoes}) for p in probes
    ]
    every_reference = [value for references, _ in earned for value in references]
    table = {REFERENCES: Earnings(median=median(every_reference), win_fraction=0.0)}
    for kind in probes[0].echoes:
        wins = [mean(echoes[kind] >= value for value in references) for references, echoes in earned]
        middle = median(echoes[kind] for _, echoes in earned)
        table[kind] = Earnings(median=middle, win_fraction=mean(wins))
    return table


def paying_echoes(table: Mapping[str, Earnings]) -> list[str]:
    """The kinds of echo that earn at least as much as the references in the median."""
    return [k for k, e in table.items() if k != REFERENCES and e.median >= table[REFERENCES].median]


def echo_metrics(table: Mapping[str, Earnings]) -> dict[str, float]:
    """The table as metrics."""
    return {
        f"reward_model/echo_{kind}_{name}": value
        for kind, earned in table.items()
        for name, value in (("median", earned.median), ("win_fraction", earned.win_fraction))
    }


def earnings_lines(table: Mapping[str, Earnings]) -> list[str]:
    """The table as text, a line a kind."""
    lines = [f"  {'what it would earn':16} median   wins"]
    for kind, earned in table.items():
        wins = "" if kind == REFERENCES else f"{100 * earned.win_fraction:5.1f} %"
        lines.append(f"  {kind:16} {earned.median:8.3f} {wins}".rstrip())
    return lines
