"""The course of a stage's metrics in a line of text each, for the terminal.

reward/mean           1.10 ▁▁▂▂▃▄▄▅▆▆▇█ 1.29
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

WIDTH = 30
"""Columns, each the mean over as many steps."""
BARS = "▁▂▃▄▅▆▇█"
SHOWN = re.compile(
    r"(?!policy)[^/]+/(held_out_)?loss|reward/mean|reward/[^/]+/mean|policy/kl_reference|reward_model/roc_auc"
)
"""Of the policy no loss: the surrogate of GRPO does not fall."""


def curves(metrics: Path, stage: str) -> list[str]:
    """The curves of a stage, a line each, from its first value to its last; none of what has one value only."""
    of_stage = [line for line in _lines(metrics) if line["stage"] == stage]
    names = dict.fromkeys(name for line in of_stage for name in line if SHOWN.fullmatch(name))
    series = {name: _values(of_stage, name) for name in names}
    width = max(map(len, names), default=0)
    return [
        f"{name:{width}}  {values[0]:8.3g} {sparkline(values)} {values[-1]:.3g}"
        for name, values in series.items()
        if len(values) > 1
    ]


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """Values as bars: the lowest column is the lowest mean, the highest the highest.

    Args:
        values: In their order.
        width: Columns, at most.
    """
    columns = min(width, len(values))
    bounds = [round(i * len(values) / columns) for i in range(columns + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(bounds)]
    least, most = min(means), max(means)
    span = (most - least) or 1.0
    return "".join(BARS[round((mean - least) / span * (len(BARS) - 1))] for mean in means)


def last_steps(metrics: Path) -> dict[str, int]:
    """The stages of which there are metrics, in their order, each with its last step; step 0 is before training."""
    return {line["stage"]: line["step"] for line in _lines(metrics) if line["step"]}


def _lines(metrics: Path) -> Iterator[dict[str, Any]]:
    if not metrics.exists():
        return
    for line in metrics.read_text(encoding="utf-8").split("\n"):
        try:
            found = json.loads(line)
        except ValueError:
            found = None  # the end of the file; or a line that is being written, or was torn by a kill
        if isinstance(found, dict):
            yield found


def _values(lines: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [line[name] for line in lines if line.get(name) is not None]
