"""Does asynchrony cost learning?

    python benchmarks/staleness_cost.py [--seeds 0 1 2] [--staleness 0 1 2 4] [--corrections clip tis decoupled]

The quickstart with every bound of staleness and every correction for stale tokens, all with equal numbers of groups and
from the same fine-tuned policy and reward model of a seed. Gain is the reward on held-out posts, grpo minus sft. The
interval of one setting is Student's, 95 %, over the seeds: what another seed would bring. At staleness 0 every token
is on policy, and the corrections are one. A run that is finished is read, not run again (runs/staleness_*).
"""

import argparse
import json
import math
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quickstart import result, run
from rich.console import Console
from rich.table import Table
from scipy.stats import t

RUN_FILE = "configs/quickstart.yaml"
DEFAULT = "tis"


@dataclass(frozen=True, kw_only=True)
class Setting:
    staleness: int
    correction: str

    def __str__(self) -> str:
        return f"{self.staleness} {self.correction}"


def settings(bounds: list[int], corrections: list[str]) -> list[Setting]:
    """Every bound with every correction; on policy there is only one."""
    return [
        Setting(staleness=bound, correction=correction)
        for bound in bounds
        for correction in (corrections if bound else ["clip"])
    ]


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
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "setting": str(setting),
        "seed": seed,
        "gain": found["gains"]["reward/mean"]["mean"],
        "valid": found["means"]["grpo"]["schema/valid_fraction"],
        "stalest": max(line["staleness/max"] for line in lines if line["stage"] == "grpo"),
        "wall_s": found["wall_s"],
    }


def interval(gains: list[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean over seeds."""
    if len(gains) < 2:
        return -math.inf, math.inf
    half = float(t.ppf(0.975, len(gains) - 1)) * statistics.stdev(gains) / math.sqrt(len(gains))
    return statistics.mean(gains) - half, statistics.mean(gains) + half


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--corrections", nargs="+", default=["clip", "tis", "decoupled"])
    arguments = parser.parse_args()
    wanted = settings(arguments.staleness, arguments.corrections)
    repetitions = [carried_out(setting, seed) for seed in arguments.seeds for setting in wanted]
    out = Path(__file__).parent / "out" / "staleness_cost.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(repetitions, indent=1))
    columns = (
        "staleness",
        "correction",
        "stalest seen",
        "gain, each seed",
        "mean",
        "95 % over seeds",
        "valid rl",
    )
    table = Table(*columns, title="Held-out reward: what reinforcement learning added")
    means, intervals = {}, {}
    for setting in wanted:
        runs = [repetition for repetition in repetitions if repetition["setting"] == str(setting)]
        gains = [found["gain"] for found in runs]
        means[str(setting)] = statistics.mean(gains)
        low, high = intervals[str(setting)] = interval(gains)
        table.add_row(
            str(setting.staleness), setting.correction, f"{max(found['stalest'] for found in runs):g}",
            " ".join(f"{gain:+.3f}" for gain in gains), f"{statistics.mean(gains):+.3f}",
            f"[{low:+.3f}, {high:+.3f}]", f"{statistics.mean(found['valid'] for found in runs):.3f}",
        )  # fmt: skip
    Console(width=120).print(table)
    on_policy, stale = "0 clip", f"2 {DEFAULT}"
    if on_policy in means and stale in means:
        low, high = intervals[on_policy]
        print(
            f"RESULT gain_0={means[on_policy]:.3f} low_0={low:.3f} high_0={high:.3f} gain_2={means[stale]:.3f} "
            f"within={int(low <= means[stale] <= high)}"
        )


if __name__ == "__main__":
    main()
