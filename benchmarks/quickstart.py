"""Does the quickstart learn, whatever the seed? And does it learn nothing when the rewards are shuffled?

    python benchmarks/quickstart.py [--seeds 0 1 2] [--run-file configs/quickstart.yaml]

Runs the run file once a seed, and once more with the rewards permuted within each group. Each run stands in
runs/<name>_seed_<n>/; one that is finished is read, not run again. Times and memory are those of a whole run.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from processes import peak_memory
from rich.console import Console
from rich.table import Table

MEASURES = ("schema/valid_fraction", "reward/mean", "reward/answer/mean", "text/second_encoder_similarity")
OUT = Path(__file__).parent / "out" / "quickstart.json"


def run(run_file: str, name: str, *settings: str) -> Path:
    """Carry the run out, unless it is finished; what it took stands in `cost.json` of its directory."""
    folder = Path("runs") / name
    if not (folder / "cost.json").exists():
        started = time.monotonic()
        command = [sys.executable, "-m", "rl_empathy.train", run_file, f"run.name={name}", *settings]
        process = subprocess.Popen(command)
        with peak_memory(process.pid) as peak:
            process.wait()
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
        cost = {"wall_s": time.monotonic() - started, "peak_pss_gib": peak.gib}
        (folder / "cost.json").write_text(json.dumps(cost))
    return folder


def result(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "evaluation" / "held_out.json").read_text())
    means = {model["name"]: {m: model["measures"][m]["mean"] for m in MEASURES} for model in report["models"]}
    gains = {
        difference["measure"]: difference["interval"]
        for difference in report["differences"]
        if (difference["before"], difference["after"]) == ("sft", "grpo")
        and difference["measure"] in MEASURES
    }
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["stage"] == "grpo"]
    return {
        "means": means,
        "gains": gains,
        "rise_in_standard_errors": rise([line["reward/mean"] for line in steps]),
        "duplicates": steps[-1]["ledger/duplicates"],
        **json.loads((folder / "cost.json").read_text()),
    }


def rise(rewards: list[float]) -> float:
    """Mean of the last quarter of the steps minus that of the first, in standard errors of the difference."""
    quarter = len(rewards) // 4
    first, last = rewards[:quarter], rewards[-quarter:]
    error = math.sqrt((statistics.variance(first) + statistics.variance(last)) / quarter)
    return (statistics.mean(last) - statistics.mean(first)) / error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--run-file", default="configs/quickstart.yaml")
    arguments = parser.parse_args()
    name = Path(arguments.run_file).stem
    results = {
        f"seed {seed}": result(run(arguments.run_file, f"{name}_seed_{seed}", f"run.seed={seed}"))
        for seed in arguments.seeds
    }
    control = f"shuffled, seed {arguments.seeds[0]}"
    settings = (f"run.seed={arguments.seeds[0]}", "grpo.shuffle_rewards=true")
    results[control] = result(run(arguments.run_file, f"{name}_shuffled", *settings))
    table = Table("run", "valid sft", "valid rl", *(f"gain {m}" for m in MEASURES), "rise, SE", "s", "GiB")
    for key, found in results.items():
        gains = (found["gains"][measure] for measure in MEASURES)
        table.add_row(
            key,
            *(f"{found['means'][model]['schema/valid_fraction']:.3f}" for model in ("sft", "grpo")),
            *(f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]" for gain in gains),
            f"{found['rise_in_standard_errors']:+.1f}", f"{found['wall_s']:.0f}", f"{found['peak_pss_gib']:.1f}",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 180).print(table)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(results, indent=1))
    learned = [found for key, found in results.items() if key != control]
    print(
        f"RESULT valid_sft_min={min(f['means']['sft']['schema/valid_fraction'] for f in learned):.3f} "
        f"valid_rl_min={min(f['means']['grpo']['schema/valid_fraction'] for f in learned):.3f} "
        f"reward_gain_low_min={min(f['gains']['reward/mean']['low'] for f in learned):.3f} "
        f"shuffled_reward_gain={results[control]['gains']['reward/mean']['mean']:.3f} "
        f"wall_s_max={max(f['wall_s'] for f in results.values()):.0f} "
        f"peak_pss_gib={max(f['peak_pss_gib'] for f in results.values()):.1f}"
    )


if __name__ == "__main__":
    main()
