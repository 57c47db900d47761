"""What do whole runs on real counselling text bring? What improved, and what did not?

    python benchmarks/real_runs.py [--run-files configs/counselchat_cpu.yaml configs/smile_zh_cpu.yaml]

Carries each run file out in runs/<its name>/, unless that is done, and prints as Markdown: the course of the
metrics, the held-out table, and whole completions to the same posts before and after reinforcement learning.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

OUT = Path(__file__).parent / "out"
COURSE = (
    "reward/mean", "reward/format/mean", "reward/answer/mean", "reward/zero_spread_fraction",
    "policy/kl_reference", "policy/rollout_kl", "policy/clip_fraction", "policy/entropy",
    "rollout/completion_length_tokens", "rollout/truncated_fraction", "staleness/max", "time/step_s",
    "tokens/generated_per_s", "tokens/trained_per_s", "ledger/duplicates",
)  # fmt: skip
COURSE_STEPS = 6
MEASURES = (
    "schema/valid_fraction", "reward/mean", "reward/answer/mean", "text/similarity_to_post", "text/copy_fraction",
)  # fmt: skip
NUM_EXAMPLES = 10


def carried_out(run_file: str) -> Path:
    """The run's directory; a run that is finished starts nothing, and one of another run file is refused."""
    command = [sys.executable, "-m", "rl_empathy.train", run_file]
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode}")
    return Path("runs") / Path(run_file).stem


def has_data(run_file: str) -> bool:
    data = yaml.safe_load(Path(run_file).read_text(encoding="utf-8"))["data"].get("train")
    if data and not Path(data).exists():
        print(f"{run_file} is left out: there is no {data}", file=sys.stderr)
        return False
    return True


def stage_lines(folder: Path, stage: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
    return [line for line in map(json.loads, filter(None, lines)) if line["stage"] == stage]


def print_minutes(folder: Path) -> None:
    """Where the time went: from the first line of a stage to its last."""
    parts = []
    for stage in ("base", "sft", "reward_modeling", "grpo"):
        if times := [line["time"] for line in stage_lines(folder, stage)]:
            parts.append(f"{stage} {(times[-1] - times[0]) / 60:.1f}")
    started = (folder / "logs" / "attempt_01" / "config.yaml").stat().st_mtime
    ended = stage_lines(folder, "evaluate")[-1]["time"]
    parts.append(f"from the start to the end of the evaluation {(ended - started) / 60:.1f}")
    print(f"Minutes: {', '.join(parts)}.\n")


def print_numbers(title: str, lines: Sequence[dict[str, Any]], wanted: Iterable[str]) -> None:
    """The named metrics, a column for each of a few lines between the first and the last."""
    if not lines:
        return
    picked = sorted({round(i * (len(lines) - 1) / (COURSE_STEPS - 1)) for i in range(COURSE_STEPS)})
    print(f"| {title} | " + " | ".join(f"step {lines[i]['step']}" for i in picked) + " |")
    print("|---|" + "---|" * len(picked))
    for name in wanted:
        if any(name in line for line in lines):
            cells = (f"{lines[i][name]:.4g}" if lines[i].get(name) is not None else "-" for i in picked)
            print(f"| `{name}` | " + " | ".join(cells) + " |")
    print()


def print_examples(folder: Path) -> None:
    """Whole completions to the same posts, before and after reinforcement learning."""
    before, after = (completions(folder, model) for model in ("sft", "grpo"))
    for prompt_id in list(before)[:NUM_EXAMPLES]:
        for name, texts in (("before", before), ("after", after)):
            reward = texts[prompt_id]["reward"]
            print(f"`{prompt_id}`, {name} (reward {'failed' if reward is None else round(reward, 2)}):\n")
            print(f"> {' '.join(texts[prompt_id]['text'].split())}\n".replace("<", "\\<"))


def completions(folder: Path, model: str) -> dict[str, Any]:
    """Each post's first completion."""
    first: dict[str, Any] = {}
    path = folder / "evaluation" / "completions" / f"{model}.jsonl"
    for line in filter(None, path.read_text(encoding="utf-8").split("\n")):
        completion = json.loads(line)
        first.setdefault(completion["prompt_id"], completion)
    return first


def print_run(folder: Path) -> dict[str, Any]:
    print(f"## {folder.name}\n")
    print_minutes(folder)
    base = [line for line in stage_lines(folder, "base") if "base/loss" in line]
    print_numbers("base", base, ["base/loss"])
    for line in stage_lines(folder, "base"):
        if "base/held_out_perplexity" in line:
            print(
                f"Held-out perplexity of the model made on the spot: {line['base/held_out_perplexity']:.1f}.\n"
            )
    losses = [line for line in stage_lines(folder, "sft") if "sft/loss" in line]
    print_numbers("sft", losses, ["sft/loss", "sft/held_out_loss"])
    encoder = [line for line in stage_lines(folder, "reward_modeling") if "reward_model/roc_auc" in line]
    wanted = ("triplet_accuracy", "triplet_accuracy_hard", "roc_auc", "threshold")
    print_numbers("reward_modeling", encoder, [f"reward_model/{name}" for name in wanted])
    print_numbers("grpo", stage_lines(folder, "grpo"), COURSE)
    print("```\n" + (folder / "evaluation" / "held_out.txt").read_text(encoding="utf-8").strip() + "\n```\n")
    print_examples(folder)
    report = json.loads((folder / "evaluation" / "held_out.json").read_text())
    return {
        d["measure"]: d["interval"]
        for d in report["differences"]
        if (d["before"], d["after"]) == ("sft", "grpo") and d["measure"] in MEASURES
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = ["configs/counselchat_cpu.yaml", "configs/smile_zh_cpu.yaml"]
    parser.add_argument("--run-files", nargs="+", default=defaults)
    run_files = parser.parse_args().run_files
    gains = {Path(f).stem: print_run(carried_out(f)) for f in filter(has_data, run_files)}
    OUT.mkdir(exist_ok=True)
    (OUT / "real_runs.json").write_text(json.dumps(gains, indent=1))
    figures = (
        f"{name}_{measure.replace('/', '_')}_gain={gain['mean']:.3f}[{gain['low']:.3f},{gain['high']:.3f}]"
        for name, found in gains.items()
        for measure, gain in found.items()
    )
    print("RESULT " + " ".join(figures))


if __name__ == "__main__":
    main()
