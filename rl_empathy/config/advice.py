"""What a run file says that is allowed and hardly meant; the check and the start of a run print it."""

from rl_empathy.algorithms.schedules import warmup_length
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.sections import OptimizerConfig


def advice(run_file: RunFile) -> list[str]:
    """A line for each setting that works against its own stage."""
    updates = {
        "sft": (run_file.sft.optimizer, run_file.sft.num_steps),
        "reward_modeling": (run_file.reward_modeling.optimizer, run_file.reward_modeling.num_steps),
        "grpo": (run_file.grpo.optimizer, run_file.grpo.num_steps * run_file.grpo.updates_per_step),
    }
    return [
        line
        for stage in run_file.run.stages
        if stage in updates and (line := warm_up_advice(stage, *updates[stage]))
    ]


def warm_up_advice(stage: str, optimizer: OptimizerConfig, num_steps: int | None) -> str | None:
    """Say that a stage ends before its warm-up does.

    Args:
        stage: Name of the stage.
        optimizer: The stage's optimizer.
        num_steps: Optimizer steps of the stage; None when only the data tells.

    Returns:
        The line; None where the learning rate reaches its peak.
    """
    if not num_steps:
        return None
    warmup = warmup_length(optimizer.warmup_steps, num_steps=num_steps)
    if warmup <= num_steps:
        return None
    return (
        f"{stage}: its {num_steps} optimizer steps never leave the warm-up of {warmup}, so the learning rate reaches "
        f"{num_steps / warmup:.0%} of {stage}.optimizer.learning_rate; set {stage}.optimizer.warmup_steps: 0.1 "
        "(a share of the steps), or more steps"
    )
