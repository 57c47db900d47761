"""How long does a run take to begin, and what does its driver hold, when the data are many rows?

    python benchmarks/many_rows.py [--rows 100000]

Rows are made here, of the words of the bundled posts in a random order: posts of about 300 characters and replies of
about 250, no two alike. The run fine-tunes the quickstart's model on them, and is stopped when the loss before the
first step is there, at `start_s`; the parts are the times at which it said that it had come so far. Memory is what the
driver held at most; pages that it shares with others are divided among them (PSS).
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from rl_empathy.data.sources import BUNDLED

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "out"
SETTINGS = (
    "run.name=many_rows",
    "run.stages=[sft]",
    "data.held_out_prompts=64",
    "data.missing_trace=none",
    "schema=think_answer",
    "sft.validity_prompts=0",
)
GIB = 1 << 30
LIMIT_S = 1800


def write_rows(path: Path, count: int) -> None:
    """Write rows in our own format."""
    bundled = [json.loads(line) for line in (BUNDLED / "en.jsonl").open(encoding="utf-8")]
    words = " ".join(row["prompt"] for row in bundled).split()
    dice = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            post, reply = (" ".join(dice.choices(words, k=k)) for k in (58, 48))
            row = {"id": f"row-{number}", "prompt": post, "references": [{"text": reply}]}
            file.write(json.dumps(row) + "\n")


def main() -> None:
    """Make the rows, start the run, and stop it after its first report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    folder = OUT / "many_rows"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(
        folder / "runs", ignore_errors=True
    )  # what an earlier run said would be taken for this one's
    write_rows(folder / "rows.jsonl", options.rows)
    command = [
        sys.executable, "-m", "rl_empathy.train", str(ROOT / "configs/quickstart.yaml"), "--fresh",
        f"data.train={folder / 'rows.jsonl'}", f"run.directory={folder / 'runs'}", *SETTINGS,
    ]  # fmt: skip
    began, peak, said = time.monotonic(), 0, dict[str, float]()
    log = folder / "run.log"
    with log.open("w") as file:
        run = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
    metrics = folder / "runs" / "many_rows" / "metrics.jsonl"
    driver = psutil.Process(run.pid)
    while not (metrics.exists() and metrics.read_text().strip()):
        if time.monotonic() - began > LIMIT_S:
            run.kill()
            raise SystemExit(f"the run has not begun to train after {LIMIT_S} s: see {log}")
        if run.poll() is not None:
            raise SystemExit(f"the run ended with {run.returncode}: see {log}")
        peak = max(peak, driver.memory_full_info().pss)
        for line in log.read_text().split("\n")[:-1]:
            said.setdefault(line.split(":")[0][:40], time.monotonic() - began)
        time.sleep(0.2)
    start_s = time.monotonic() - began
    run.terminate()
    run.wait(timeout=120)
    table = Table("the run has said", "after s")
    for what, seconds in said.items():
        table.add_row(what, f"{seconds:.1f}")
    table.add_row("the loss before the first step", f"{start_s:.1f}")
    Console().print(table)
    print(f"RESULT rows={options.rows} start_s={start_s:.1f} driver_gib={peak / GIB:.2f}")


if __name__ == "__main__":
    main()
