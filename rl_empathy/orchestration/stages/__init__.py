"""One file a stage, with `async def run(context, artifacts) -> Made`; what each takes and gives is a line of
`config/stage_table.py`.

artifacts         what the stages have made so far
sft               fine-tuning on traces and answers
reward_modeling   the embedding reward model
grpo              reinforcement learning: staffs the roles, then the loop of `orchestration/grpo.py`
evaluate          every model of the run, side by side
own               a stage of the user's
"""

import importlib
from collections.abc import Awaitable, Callable
from functools import partial

from rl_empathy.config.stage_table import STAGES
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.stages import own
from rl_empathy.orchestration.stages.artifacts import Artifacts, Made

__all__ = ["Artifacts", "Made", "Run", "runner_of"]

Run = Callable[[RunContext, Artifacts], Awaitable[Made]]


def runner_of(name: str) -> Run:
    """What carries a stage out."""
    if name not in STAGES:
        return partial(own.run, name)
    return importlib.import_module(f"{__name__}.{name}").run  # type: ignore[no-any-return]
