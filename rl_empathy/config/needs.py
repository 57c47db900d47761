"""What a run needs of its stages: refused before anything starts, with the stage that would give it."""

from collections.abc import Mapping

from rl_empathy.config.run_file import RunFile
from rl_empathy.config.sections import Stage
from rl_empathy.config.sections.rewards import Need
from rl_empathy.errors import ConfigError

GIVEN_BY: Mapping[Need, Stage] = {"reward_model": "reward_modeling"}
"""The stage that makes what a reward term needs."""


def require_what_stages_need(run_file: RunFile) -> None:
    """Look whether the stages of a run file are given what they take.

    Raises:
        ConfigError: Stage grpo is to reward by something that no stage before it makes.
    """
    stages = run_file.run.stages
    before = stages[: stages.index("grpo")] if "grpo" in stages else ()
    for name, needs in run_file.rewards.needs.items() if "grpo" in stages else ():
        for need in needs:
            if (giver := GIVEN_BY[need]) not in before:
                raise ConfigError(
                    f"the reward term {name} needs a {need.replace('_', ' ')}, but run.stages ({', '.join(stages)}) "
                    f"has no stage {giver} before grpo; add it, or leave the term out of rewards.terms"
                )
