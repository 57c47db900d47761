"""Bootstrap intervals over prompts: the prompt is what was drawn, its completions are averaged first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95

ValuesByPrompt = Mapping[str, Sequence[float]]
"""Prompt id to the values of its completions; a prompt without a value is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean over prompts with its 95 % interval. One prompt has no interval: then low and high are None."""

    mean: float
    low: float | None
    high: float | None
    num_prompts: int

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def prompt_means(values_by_prompt: ValuesByPrompt) -> dict[str, float]:
    """Average the completions of each prompt."""
    return {prompt: float(np.mean(values)) for prompt, values in values_by_prompt.items() if len(values)}


def bootstrap_mean(values_by_prompt: ValuesByPrompt, samples: int, seed: int) -> Interval:
    """Mean over prompts of the completions' mean, with the percentile interval over resampled prompts.

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", sec. 13.3. Completions of one prompt
    resemble each other; an interval over completions would be too narrow.

    Args:
        values_by_prompt: The values of every prompt's completions.
        samples: Resamples of the prompts.
        seed: Seed of the resampling.

    Raises:
        ValueError: No prompt has a value, or a value is not finite.
    """
    return _interval(np.array(list(prompt_means(values_by_prompt).values())), samples, seed)


def bootstrap_difference(before: ValuesByPrompt, after: ValuesByPrompt, samples: int, seed: int) -> Interval:
    """Mean of after - before over the prompts that have both, with its interval as in `bootstrap_mean`.

    Paired: a prompt that is hard for both models cancels out, so the interval is narrower than the two apart.

    Raises:
        ValueError: No prompt has both, or a value is not finite.
    """
    return _interval(np.array(paired_differences(before, after)), samples, seed)


def paired_differences(before: ValuesByPrompt, after: ValuesByPrompt) -> list[float]:
    """After minus before, of every prompt that has both."""
    first, second = prompt_means(before), prompt_means(after)
    return [second[prompt] - first[prompt] for prompt in first if prompt in second]


def _interval(means: NDArray[np.float64], samples: int, seed: int) -> Interval:
    if not len(means):
        raise ValueError("no prompt has a value; leave the measure out instead")
    if not np.isfinite(means).all():
        raise ValueError("a value is not finite; leave the failed completion out instead")
    if len(means) == 1:
        return Interval(mean=float(means[0]), low=None, high=None, num_prompts=1)
    from scipy.stats import bootstrap  # type: ignore[import-untyped]

    low, high = bootstrap(
        (means,),
        np.mean,
        n_resamples=samples,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean=float(means.mean()), low=float(low), high=float(high), num_prompts=len(means))
