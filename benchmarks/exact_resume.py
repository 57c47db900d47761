"""Is a deterministic run that was killed at any moment the same as one that was not?

    python benchmarks/exact_resume.py [--kills 20] [--seed 0]

The quickstart's model on real engines, `run.deterministic: true`. The driver and all its roles are killed (SIGKILL) at
random moments, and the same command goes on: every other kill falls into the first half minute of a start, the others
up to 10 s after a step that the start before had not done. Afterwards every metric of every step, but times and
restarts, must equal the unbroken run's, and so must the ledger.
"""

import argparse
import json
import random
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

from observed_run import ObservedRun
from rich.console import Console
from rich.progress import track
from rich.table import Table

SETTINGS = (
    "run.deterministic=true",
    "grpo.max_staleness=0",
    "grpo.num_steps=60",
    "grpo.groups_per_step=4",
    "grpo.checkpoint_every=2",
)
MEASURED = re.compile(r"time$|time/|idle/|fleet/|.*_per_s$")
STARTING_S, TRAINING_S = 30.0, 10.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    whole, broken = ObservedRun("exact_whole", *SETTINGS), ObservedRun("exact_broken", *SETTINGS)
    whole.start()
    whole.end()
    kills: list[dict[str, float]] = []
    over = False
    for _ in track(range(arguments.kills), "kills"):
        done, began = len(broken.lines()), time.monotonic()
        broken.start()
        if len(kills) % 2:
            broken.wait_for(partial(is_after, done), f"step {done + 1}")
        if over := broken.ends_within(dice.uniform(0, TRAINING_S if len(kills) % 2 else STARTING_S)):
            break
        broken.kill_driver()
        kills.append({"after_s": time.monotonic() - began, "step": len(broken.lines())})
    if over:
        raise SystemExit(f"the run was over after {len(kills)} kills; give it more steps")
    broken.start()
    broken.end()
    differing = sorted(differences(whole.lines(), broken.lines()))
    ledgers = [(run.folder / "ledger.jsonl").read_text() for run in (whole, broken)]
    same_ledger = entries(ledgers[0]) == entries(ledgers[1])
    table = Table("killed after s", "steps then in the record", title="The same command went on after each")
    for kill in kills:
        table.add_row(f"{kill['after_s']:.1f}", str(kill["step"]))
    Console(width=100).print(table)
    print(f"differing metrics: {differing or 'none'}; ledgers {'equal' if same_ledger else 'differ'}")
    out = Path(__file__).parent / "out" / "exact_resume.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"kills": kills, "differing": differing, "same_ledger": same_ledger}, indent=1))
    print(f"RESULT kills={len(kills)} differing_metrics={len(differing)} same_ledger={int(same_ledger)}")


def is_after(step: int, line: dict[str, Any]) -> bool:
    return bool(line["step"] > step)


def differences(whole: list[dict[str, Any]], broken: list[dict[str, Any]]) -> set[str]:
    """Names of the metrics that differ in any step."""
    if [line["step"] for line in whole] != [line["step"] for line in broken]:
        raise SystemExit(f"the runs have {len(whole)} and {len(broken)} steps")
    return {
        name
        for left, right in zip(whole, broken, strict=True)
        for name in left.keys() | right.keys()
        if not MEASURED.match(name) and left.get(name) != right.get(name)
    }


def entries(ledger: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ledger.split("\n") if line]


if __name__ == "__main__":
    main()
