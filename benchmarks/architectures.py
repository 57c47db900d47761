"""Does the trainer compute what transformers computes, for every family of language models?

    python benchmarks/architectures.py [NAME ...] [--layout shared_prompt]

A tiny random model of each family, with large weights and biases, so that a piece left out shows. The oracle is
`model(ids).logits` of transformers with eager attention, one sequence alone; the trainer's rows hold three sequences
where the layout allows it. Each column holds two numbers. float32, without and with gradient checkpointing: the largest
difference of a log-prob, nats, and the relative difference of the gradient of a weighted sum of them. bfloat16, trained
(weights in float32) and frozen: the mean difference of log-probs from float32, and the gradient's, beside those of
transformers itself in bfloat16.
"""

import argparse
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import transformers
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.architectures import FAMILIES, Difference, Finding, find, is_wrong

OUT = Path(__file__).parent / "out" / "architectures.json"


def cells(found: Finding) -> list[str]:
    """A line of the table, without the name."""
    if found.refused:
        return ["refused", "", "", "", "", "", found.refused]
    exact = [
        f"{d.largest:.0e} {d.gradient:.0e}" if d else "none" for d in (found.float32, found.checkpointed)
    ]
    coarse = (found.bfloat16, found.frozen_bfloat16, found.transformers_bfloat16)
    return [str(found.layout), *exact, *(f"{d.mean:.3f} {d.gradient:.2f}" for d in coarse if d), ""]


def jsonable(found: Finding) -> dict[str, object]:
    """With the names of all numbers."""
    return {
        key: value._asdict() if isinstance(value, Difference) else value
        for key, value in found._asdict().items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(FAMILIES))
    parser.add_argument("--layout", default="shared_prompt")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    table = Table(
        "family", "layout", "float32", "checkpointed", "bfloat16", "transformers' bfloat16", "why refused"
    )
    findings: dict[str, Finding] = {}
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as folder:
            findings[name] = find(name, Path(folder), layout=arguments.layout)
        table.add_row(name, *cells(findings[name]))
    Console(width=160).print(table)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({name: jsonable(found) for name, found in findings.items()}, indent=1))
    refused = sum(found.refused is not None for found in findings.values())
    wrong = sum(map(is_wrong, findings.values()))
    largest = max((found.float32.largest for found in findings.values() if found.float32), default=0.0)
    print(f"RESULT families={len(findings)} refused={refused} wrong={wrong} largest_difference={largest:.1e}")


if __name__ == "__main__":
    main()
