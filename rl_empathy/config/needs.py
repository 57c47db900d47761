"""What a stage needs of another one: refused before anything starts, with the stage that would give it."""

from rl_empathy.config.run_file import RunFile
from rl_empathy.errors import ConfigError


def require_what_stages_need(run_file: RunFile) -> None:
    """Look whether the stages of a run file are given what they take.

    Raises:
        ConfigError: Stage grpo is to reward answers, and no stage before it makes a reward model.
    """
    stages = run_file.run.stages
    rewards_answers = any(term.function == "answer" for term in run_file.grpo.rewards)
    if "grpo" in stages and rewards_answers and "reward_modeling" not in stages[: stages.index("grpo")]:
        raise ConfigError(
            f"grpo.rewards has the term answer, but run.stages ({', '.join(stages)}) has no stage reward_modeling "
            "before grpo; add it, or set grpo.rewards: [{function: format}]"
        )
