"""Does asynchrony cost learning?

    python benchmarks/staleness_cost.py [--seeds 0 1 2] [--staleness 1 2 4] [--corrections clip tis decoupled]

The quickstart with every bound of staleness and every correction for stale tokens, all with equal numbers of groups and
from the same fine-tuned policy and reward model of a seed. Gain is the reward on held-out posts, grpo minus sft.

A setting is equivalent to staleness 0 when the difference of their gains, seed by seed, lies within ± 0.05 of reward.
The margin stands here before the runs that it judges; it is about half of what reinforcement learning adds in the
quickstart. The test is two one-sided t-tests at 5 % each: the 90 % interval of the difference lies within the margin.
The column "could see" says what the seeds can show at all: the true difference that a t-test at 5 % finds four times
out of five. Where that is more than the margin, the seeds are too few, and the answer is "not shown", whatever the
means are. At staleness 0 every token is on policy, and the corrections are one. A run that is finished is read, not
run again (runs/staleness_*).

The second table: are short completions favoured? By quarter of length, the shortest first: staleness of the tokens, and
the share of them that the correction clipped, truncated or masked; and how long completions are in the first five
steps, and in the rest.
"""

import argparse
import json
import math
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quickstart import result, run
from rich.console import Console
from rich.table import Table
from scipy.stats import t

RUN_FILE = "configs/quickstart.yaml"


@dataclass(frozen=True, kw_only=True)
class Setting:
    staleness: int
    correction: str

    def __str__(self) -> str:
        return f"{self.staleness} {self.correction}"


ON_POLICY = Setting(staleness=0, correction="clip")
FIRST_STEPS = 5
MARGIN = 0.05
"""Difference in gain that counts as none, reward."""
CONFIDENCE = 0.90
"""Confidence of the interval that must lie within the margin: two one-sided tests at 5 % each."""
STALE = Setting(staleness=2, correction="tis")
"""With the correction that is the default."""


def settings(bounds: list[int], corrections: list[str]) -> list[Setting]:
    """On policy, where there is one correction only, and every other bound with every correction."""
    return [ON_POLICY, *(Setting(staleness=bound, correction=c) for bound in bounds for c in corrections)]


def carried_out(setting: Setting, seed: int) -> dict[str, Any]:
    """What one run brought, from the fine-tuned policy and the reward model that all runs of its seed share."""
    shared = run(
        RUN_FILE, f"staleness_shared_seed_{seed}", f"run.seed={seed}", "run.stages=[sft, reward_modeling]"
    )
    name = f"staleness_{setting.staleness}_{setting.correction}_seed_{seed}"
    folder = Path("runs") / name
    if not (folder / "cost.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(shared, folder, ignore=shutil.ignore_patterns("cost.json"), symlinks=True)
        stale = (f"grpo.max_staleness={setting.staleness}", f"grpo.loss={setting.correction}")
        run(RUN_FILE, name, f"run.seed={seed}", *stale, "--allow-config-change")
    found = result(folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().split("\n") if line]
    steps = [line for line in lines if line["stage"] == "grpo"]
    lengths = [line["rollout/completion_length_tokens"] for line in steps]
    return {
        "setting": str(setting),
        "seed": seed,
        "gain": found["gains"]["reward/mean"],
        "valid": found["means"]["grpo"]["schema/valid_fraction"],
        "stalest": max(line["staleness/max"] for line in steps),
        "staleness": by_quarter(steps, "staleness/token_mean"),
        "clipped": by_quarter(steps, "policy/clip_fraction"),
        "first_steps_tokens": statistics.mean(lengths[:FIRST_STEPS]),
        "rest_tokens": statistics.mean(lengths[FIRST_STEPS:]),
        "wall_s": found["wall_s"],
    }


def by_quarter(steps: Sequence[dict[str, Any]], name: str) -> list[float]:
    """Means over the steps, one a quarter of length; where many completions are equally long, a step may lack one."""
    keys = [f"{name}/quarter_{number}" for number in (1, 2, 3, 4)]
    return [statistics.mean(line[key] for line in steps if key in line) for key in keys]


def interval(gains: list[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean over seeds."""
    if len(gains) < 2:
        return -math.inf, math.inf
    quantile = float(t.ppf((1 + confidence) / 2, len(gains) - 1))
    half = quantile * statistics.stdev(gains) / math.sqrt(len(gains))
    return statistics.mean(gains) - half, statistics.mean(gains) + half


def detectable(differences: list[float]) -> float:
    """The smallest true difference that a two-sided t-test at 5 % finds with a power of 0.8, by the t approximation."""
    if len(differences) < 2:
        return math.inf
    quantiles = t.ppf([0.975, 0.8], len(differences) - 1).sum()
    return float(quantiles) * statistics.stdev(differences) / math.sqrt(len(differences))


def is_equivalent(differences: list[float]) -> bool:
    low, high = interval(differences, CONFIDENCE)
    return low > -MARGIN and high < MARGIN


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--staleness", type=int, nargs="+", default=[1, 2, 4], help="beside 0")
    parser.add_argument("--corrections", nargs="+", default=["clip", "tis", "decoupled"])
    arguments = parser.parse_args()
    wanted = settings(arguments.staleness, arguments.corrections)
    repetitions = [carried_out(setting, seed) for seed in arguments.seeds for setting in wanted]
    out = Path(__file__).parent / "out" / "staleness_cost.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(repetitions, indent=1))
    Console(width=160).print(gain_table(wanted, repetitions))
    Console(width=140).print(favour(wanted, repetitions))
    if STALE in wanted:
        on_policy, stale = seed_gains(repetitions, ON_POLICY), seed_gains(repetitions, STALE)
        less = less_on_policy(repetitions, STALE)
        low, high = interval(less, CONFIDENCE)
        print(
            f"RESULT gain_0={statistics.mean(on_policy):.3f} gain_2={statistics.mean(stale):.3f} "
            f"less_low={low:.3f} less_high={high:.3f} margin={MARGIN} equivalent={int(is_equivalent(less))} "
            f"detectable={detectable(less):.3f}"
        )


def seed_gains(repetitions: Sequence[dict[str, Any]], setting: Setting) -> list[float]:
    """The gain of each seed under one setting."""
    return [found["gain"] for found in repetitions if found["setting"] == str(setting)]


def less_on_policy(repetitions: Sequence[dict[str, Any]], setting: Setting) -> list[float]:
    """The gain under one setting minus the gain at staleness 0, seed by seed."""
    pairs = zip(seed_gains(repetitions, setting), seed_gains(repetitions, ON_POLICY), strict=True)
    return [gain - reference for gain, reference in pairs]


def gain_table(wanted: Sequence[Setting], repetitions: Sequence[dict[str, Any]]) -> Table:
    """By setting, the gain of each seed and the comparison with staleness 0."""
    columns = (
        "staleness",
        "correction",
        "stalest",
        "gain, each seed",
        "mean, 95 %",
        "less 0's, 90 %",
        f"within ±{MARGIN:g}",
        "could see",
        "valid rl",
    )
    table = Table(*columns, title="Held-out reward: what reinforcement learning added")
    for setting in wanted:
        runs = [found for found in repetitions if found["setting"] == str(setting)]
        here = seed_gains(repetitions, setting)
        compared = ["", "", ""]
        if setting != ON_POLICY:
            less = less_on_policy(repetitions, setting)
            verdict = "yes" if is_equivalent(less) else "not shown"
            compared = [shown(less, CONFIDENCE), verdict, f"{detectable(less):.3f}"]
        table.add_row(
            str(setting.staleness), setting.correction, f"{max(found['stalest'] for found in runs):g}",
            " ".join(f"{gain:+.3f}" for gain in here), shown(here), *compared,
            f"{statistics.mean(found['valid'] for found in runs):.3f}",
        )  # fmt: skip
    return table


def favour(wanted: Sequence[Setting], repetitions: Sequence[dict[str, Any]]) -> Table:
    """By setting, means over the seeds."""
    columns = (
        "staleness",
        "correction",
        "staleness by quarter",
        "clipped by quarter",
        "first 5 steps",
        "rest",
    )
    table = Table(*columns, title="Are short completions favoured?")
    for setting in wanted:
        runs = [found for found in repetitions if found["setting"] == str(setting)]
        quarters = (
            " ".join(
                f"{statistics.mean(each):.{digits}f}" for each in zip(*(r[name] for r in runs), strict=True)
            )
            for name, digits in (("staleness", 2), ("clipped", 4))
        )
        tokens = (statistics.mean(r[name] for r in runs) for name in ("first_steps_tokens", "rest_tokens"))
        table.add_row(
            str(setting.staleness), setting.correction, *quarters, *(f"{mean:.1f} tokens" for mean in tokens)
        )
    return table


def shown(values: list[float], confidence: float = 0.95) -> str:
    low, high = interval(values, confidence)
    return f"{statistics.mean(values):+.3f} [{low:+.3f}, {high:+.3f}]"


if __name__ == "__main__":
    main()
