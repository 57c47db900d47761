"""How often does the table of an evaluation star a difference between something and itself?

    python benchmarks/same_twice.py [RUN/evaluation/completions/grpo.jsonl --config RUN/config.yaml] [--splits 20]

The completions of each prompt are dealt to two halves by a seed, and the halves compared as if they were two models. A
star is false by construction. Without a file the completions are counsellors' answers from CounselChat, to posts that
have two or more: text by people, which differs more than a model's. `uncorrected` counts the tables in which an
interval excludes zero, as if every row stood alone.
"""

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rl_empathy.config.loading import load_run_file
from rl_empathy.config.sections import DataConfig
from rl_empathy.data.loading import load_data
from rl_empathy.evaluation.measures import leading
from rl_empathy.evaluation.report import ModelEvaluation, compare, evaluate_completions
from rl_empathy.evaluation.scored import ScoredCompletion
from rl_empathy.evaluation.significance import significant
from rl_empathy.evaluation.words import Language
from rl_empathy.schema import PLAIN, OutputSchema
from rl_empathy.types import Message, Reference, Row

Completions = Mapping[str, Sequence[ScoredCompletion]]
OUT = Path(__file__).parent / "out" / "same_twice.json"
ANSWERS = "../shared/data/counselchat/train.jsonl"


def counsellors() -> tuple[list[Row], Completions, OutputSchema, Language]:
    """Posts with two or more answers, and the answers as completions."""
    data = load_data(DataConfig(train=ANSWERS, format="counselchat", held_out_prompts=1), seed=0)
    posts = [row for row in data.train if len(row.references) > 1]
    completions = {
        row.id: [
            ScoredCompletion(
                prompt_id=row.id, text=answer.text, finish_reason="stop", tokens=len(answer.text.split())
            )
            for answer in row.references
        ]
        for row in posts
    }
    return [Row(id=row.id, messages=row.messages) for row in posts], completions, PLAIN, "en"


def written(path: Path, config: Path) -> tuple[list[Row], Completions, OutputSchema, Language]:
    """What a model wrote in an evaluation."""
    run_file = load_run_file(config, check_paths=False)
    rows: dict[str, Row] = {}
    completions: dict[str, list[ScoredCompletion]] = defaultdict(list)
    for line in path.open(encoding="utf-8"):
        one: dict[str, Any] = json.loads(line)
        references = tuple(Reference(text=text) for text in one["references"])
        message = Message(role="user", content=one["post"])
        rows[one["prompt_id"]] = Row(id=one["prompt_id"], messages=(message,), references=references)
        completions[one["prompt_id"]].append(
            ScoredCompletion(
                prompt_id=one["prompt_id"],
                text=one["text"],
                finish_reason=one["finish_reason"],
                tokens=one["tokens"],
                rewards=one["terms"],
                reward=one["reward"],
                similarity_to_post=one["similarity_to_post"],
            )
        )
    return list(rows.values()), completions, run_file.schema_declaration, run_file.data.language


def halves(completions: Completions, split: int) -> tuple[dict[str, Any], dict[str, Any]]:
    draw = random.Random(split)
    first, second = {}, {}
    for prompt, several in completions.items():
        dealt = draw.sample(list(several), k=len(several))
        half = len(dealt) // 2
        first[prompt], second[prompt] = dealt[:half], dealt[half : 2 * half]
    return first, second


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("completions", type=Path, nargs="?")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--splits", type=int, default=20)
    arguments = parser.parse_args()
    source = written(arguments.completions, arguments.config) if arguments.completions else counsellors()
    rows, completions, schema, language = source

    def evaluated(name: str, half: Completions) -> ModelEvaluation:
        return evaluate_completions(name, rows, half, schema, language, bootstrap_samples=2000, seed=0)

    table = Table("split", "stars (leading)", "stars (all)", "intervals that exclude zero")
    splits = []
    for split in range(arguments.splits):
        pair = [evaluated(name, half) for name, half in zip("ab", halves(completions, split), strict=True)]
        differences = compare(pair)
        stars = {
            "leading": sorted(
                significant([one for one in differences if one.measure in leading(["answer"])])
            ),
            "all": sorted(significant(differences)),
            "uncorrected": sorted(one.measure for one in differences if one.interval.excludes_zero),
        }
        splits.append(stars)
        table.add_row(str(split), *(", ".join(found) or "-" for found in stars.values()))
    Console(width=140).print(table)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"num_prompts": len(rows), "splits": splits}, indent=1))
    counts = {kind: sum(bool(stars[kind]) for stars in splits) for kind in ("leading", "all", "uncorrected")}
    print(
        f"RESULT prompts={len(rows)} splits={len(splits)} " + " ".join(f"{k}={v}" for k, v in counts.items())
    )


if __name__ == "__main__":
    main()
