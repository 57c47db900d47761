"""Whether two models differ: a test over prompts, and what is left of it when many measures are looked at."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from rl_empathy.evaluation.intervals import Interval

FALSE_DISCOVERY_RATE = 0.01
"""Share of the stars of a table that may be false, in expectation. It is also the share of tables with a star where two
models do not differ at all: the usual 0.05 would be one evaluation in twenty."""
MIN_PROMPTS = 20
"""Fewer prompts give no star: a handful agrees by chance too often, and its intervals are too narrow."""
RESAMPLES = 9999


class Compared(Protocol):
    """A difference of one measure between two models."""

    @property
    def measure(self) -> str: ...
    @property
    def interval(self) -> Interval: ...
    @property
    def p_value(self) -> float | None: ...


def sign_flip_p_value(differences: Sequence[float], *, seed: int) -> float | None:
    """Two-sided p-value of a paired sign-flip (permutation) test: is the mean difference zero?

    If two models write alike, each prompt's difference is as likely with the other sign. The p-value is the share of
    sign patterns whose mean lies at least as far out (Fisher 1935, "The Design of Experiments", sec. 21).

    Args:
        differences: One a prompt.
        seed: Seed of the sign patterns that are drawn.

    Returns:
        The p-value, at least 2 / 10,000; None for fewer than MIN_PROMPTS prompts.
    """
    if len(differences) < MIN_PROMPTS:
        return None
    values = np.asarray(differences, dtype=float)
    if not values.any():
        return 1.0
    from scipy.stats import permutation_test  # type: ignore[import-untyped]

    rng = np.random.default_rng(seed)
    result = permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, vectorized=True, rng=rng
    )
    return float(result.pvalue)


def significant(differences: Iterable[Compared]) -> set[str]:
    """The measures whose difference stands after the procedure of Benjamini and Hochberg (1995).

    A difference whose own interval holds zero never stands.

    Args:
        differences: All those that are shown together, one a measure.
    """
    from scipy.stats import false_discovery_control

    tested = [one for one in differences if one.p_value is not None]
    if not tested:
        return set()
    adjusted = false_discovery_control([one.p_value for one in tested], method="bh")
    return {
        one.measure
        for one, p_value in zip(tested, adjusted, strict=True)
        if p_value <= FALSE_DISCOVERY_RATE and one.interval.excludes_zero
    }
