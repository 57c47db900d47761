"""What the groups of a step look like, as metrics."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, pstdev

from rl_empathy.types import GroupHeader, GroupRewards

Scored = tuple[GroupHeader, GroupRewards]


def rollout_metrics(trained: Sequence[Scored], dropped: Sequence[Scored]) -> dict[str, float]:
    """Rewards, schema, spans and lengths over every group that was scored, whether it was trained or dropped.

    Dropped groups count: a policy that always gets the same reward must not look as if it had no rewards.

    Args:
        trained: Header and rewards of the groups of the step.
        dropped: Those of the groups that the step passed over.

    Returns:
        Metrics by name.
    """
    groups = [*trained, *dropped]
    headers, rewards = zip(*groups, strict=True)
    totals = [total for reward in rewards for total in reward.valid]
    failed = [total is None for reward in rewards for total in reward.totals]
    errors = [kinds for reward in rewards for kinds in reward.errors]
    valid = [
        not kinds and reason == "stop"
        for header, reward in groups
        for kinds, reason in zip(reward.errors, header.finish_reasons, strict=True)
    ]
    lengths = [length for header in headers for length in header.completion_tokens]
    reasons = [reason for header in headers for reason in header.finish_reasons]
    return {
        "reward/mean": fmean(totals) if totals else float("nan"),
        "reward/std": pstdev(totals) if totals else float("nan"),
        "reward/failed_fraction": fmean(failed),
        "reward/zero_spread_fraction": fmean(not reward.has_spread for reward in rewards),
        "schema/valid_fraction": fmean(valid),
        "rollout/completion_length_tokens": fmean(lengths),
        "rollout/truncated_fraction": fmean(reason == "length" for reason in reasons),
        **_sample_times(headers),
        **_term_means(rewards),
        **_error_fractions(errors),
        **_span_lengths(rewards),
    }


def _sample_times(headers: Sequence[GroupHeader]) -> dict[str, float]:
    times = [header.sample_s for header in headers if header.sample_s is not None]
    return {"time/sample_mean_s": fmean(times), "time/sample_max_s": max(times)} if times else {}


def _term_means(rewards: Sequence[GroupRewards]) -> dict[str, float]:
    means = {}
    for name in rewards[0].terms:
        scores = [score for reward in rewards for score in reward.terms[name] if score is not None]
        means[f"reward/{name}/mean"] = fmean(scores) if scores else float("nan")
        asked = sum(len(reward.terms[name]) for reward in rewards)
        means[f"reward/{name}/failed_fraction"] = 1 - len(scores) / asked
    return means


def _error_fractions(errors: Sequence[tuple[str, ...]]) -> dict[str, float]:
    counts = Counter(kind for kinds in errors for kind in kinds)
    return {f"schema/error/{kind}_fraction": count / len(errors) for kind, count in sorted(counts.items())}


def _span_lengths(rewards: Sequence[GroupRewards]) -> dict[str, float]:
    lengths: dict[str, list[int]] = {}
    for reward in rewards:
        for spans in reward.span_tokens:
            for name, length in spans.items():
                lengths.setdefault(name, []).append(length)
    return {f"span/{name}/length_tokens": fmean(values) for name, values in sorted(lengths.items())}
