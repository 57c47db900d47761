"""Does the quickstart learn, whatever the seed? And do its controls learn nothing?

    python benchmarks/quickstart.py [--seeds 0 1 2] [--run-file configs/quickstart.yaml]

Runs the run file once a seed. Two controls say what a gain is worth: the same with the rewards permuted within each
group (first seed only), and, for every seed, fine-tuning that goes on from its fine-tuned model for as many updates
as reinforcement learning makes, with its learning rate. Gains are over the seed's fine-tuned model on the held-out
posts; the mean over the seeds has Student's 95 % interval, which is what another seed would bring. Each run stands in
runs/<name>_seed_<n>/; one that is finished is read, not run again. Times and memory are those of a whole run.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from processes import peak_memory
from rich.console import Console
from rich.table import Table
from scipy.stats import t

from rl_empathy.config.loading import load_run_file

MEASURES = (
    "schema/valid_fraction", "reward/mean", "reward/answer/mean", "text/copy_fraction", "text/rouge_l", "text/bleu",
)  # fmt: skip
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


def means(folder: Path) -> dict[str, dict[str, float]]:
    """Each model's mean of each measure on the held-out posts."""
    report = json.loads((folder / "evaluation" / "held_out.json").read_text())
    return {model["name"]: {m: model["measures"][m]["mean"] for m in MEASURES} for model in report["models"]}


def result(folder: Path) -> dict[str, Any]:
    found = means(folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().split("\n") if line]
    steps = [line for line in lines if line["stage"] == "grpo"]
    return {
        "means": found,
        "gains": {m: found["grpo"][m] - found["sft"][m] for m in MEASURES},
        "rise_in_standard_errors": rise([line["reward/mean"] for line in steps]),
        "duplicates": steps[-1]["ledger/duplicates"],
        "updates": len(steps),
        **json.loads((folder / "cost.json").read_text()),
    }


def more_fine_tuning(run_file: str, folder: Path, name: str, seed: int, updates: int) -> dict[str, Any]:
    """The control: from the seed's fine-tuned model on, as many updates on the same targets as GRPO made."""
    optimizer = load_run_file(folder / "config.yaml").grpo.optimizer
    settings = (
        f"run.seed={seed}",
        f"model={{path: {folder / 'sft' / 'model'}, from_scratch: null}}",
        "run.stages=[sft, reward_modeling, evaluate]",
        f"sft.num_steps={updates}",
        f"sft.optimizer={json.dumps(optimizer.model_dump(mode='json'))}",
    )
    longer = run(run_file, name, *settings)
    before, after = means(folder)["sft"], means(longer)["sft"]
    cost = json.loads((longer / "cost.json").read_text())
    return {"gains": {m: after[m] - before[m] for m in MEASURES}, **cost}


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
    file, name = arguments.run_file, Path(arguments.run_file).stem
    folders = {seed: run(file, f"{name}_seed_{seed}", f"run.seed={seed}") for seed in arguments.seeds}
    learned = {f"grpo, seed {seed}": result(folder) for seed, folder in folders.items()}
    longer = {
        f"sft goes on, seed {seed}": more_fine_tuning(
            file, folder, f"{name}_longer_seed_{seed}", seed, learned[f"grpo, seed {seed}"]["updates"]
        )
        for seed, folder in folders.items()
    }
    first = arguments.seeds[0]
    shuffled = result(run(file, f"{name}_shuffled", f"run.seed={first}", "grpo.shuffle_rewards=true"))
    results = learned | longer | {f"grpo, shuffled rewards, seed {first}": shuffled}
    table = Table("gain over sft", *MEASURES, "rise, SE", "s", "GiB")
    for key, found in results.items():
        gains = (f"{found['gains'][measure]:+.3f}" for measure in MEASURES)
        rose = found.get("rise_in_standard_errors")
        table.add_row(
            key, *gains, "" if rose is None else f"{rose:+.1f}", f"{found['wall_s']:.0f}",
            f"{found['peak_pss_gib']:.1f}",
        )  # fmt: skip
    table.add_section()
    for key, runs in (("grpo, all seeds", learned), ("sft goes on, all seeds", longer)):
        table.add_row(key, *(over_seeds(runs.values(), measure) for measure in MEASURES))
    Console(width=None if sys.stdout.isatty() else 180).print(table)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(results, indent=1))
    rewards, control = ([f["gains"]["reward/mean"] for f in runs.values()] for runs in (learned, longer))
    print(
        f"RESULT valid_sft_min={min(f['means']['sft']['schema/valid_fraction'] for f in learned.values()):.3f} "
        f"valid_rl_min={min(f['means']['grpo']['schema/valid_fraction'] for f in learned.values()):.3f} "
        f"reward_gain={statistics.mean(rewards):.3f} reward_gain_min={min(rewards):.3f} "
        f"longer_sft_reward_gain={statistics.mean(control):.3f} "
        f"shuffled_reward_gain={shuffled['gains']['reward/mean']:.3f} "
        f"copy_gain_max={max(f['gains']['text/copy_fraction'] for f in learned.values()):.3f} "
        f"wall_s_max={max(f['wall_s'] for f in learned.values()):.0f} "
        f"peak_pss_gib={max(f['peak_pss_gib'] for f in results.values()):.1f}"
    )


def over_seeds(runs: Iterable[dict[str, Any]], measure: str) -> str:
    """Mean gain with Student's 95 % interval."""
    gains = [found["gains"][measure] for found in runs]
    mean = statistics.mean(gains)
    if len(gains) < 2:
        return f"{mean:+.3f}"
    half = float(t.ppf(0.975, len(gains) - 1)) * statistics.stdev(gains) / math.sqrt(len(gains))
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


if __name__ == "__main__":
    main()
