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
    warm_ups = [
        line
        for stage in run_file.run.stages
        if stage in updates and (line := warm_up_advice(stage, *updates[stage]))
    ]
    return warm_ups + idle_advice(run_file)


def idle_advice(run_file: RunFile) -> list[str]:
    """Name the keys that were changed from their default and that another key makes idle."""
    grpo, ranking = run_file.grpo, run_file.reward_modeling.loss
    loss = f"grpo.loss is {grpo.correction}"
    idle = {
        "sft.num_epochs": (run_file.sft.num_steps is not None, "sft.num_steps takes its place"),
        "reward_modeling.margin": (ranking != "triplet", f"reward_modeling.loss is {ranking}"),
        "reward_modeling.temperature": (ranking != "infonce", f"reward_modeling.loss is {ranking}"),
        "grpo.tis_cap": (grpo.correction not in ("tis", "sequence_mask"), loss),
        "grpo.mask_low": (grpo.correction not in ("mask", "sequence_mask"), loss),
        "grpo.mask_high": (grpo.correction not in ("mask", "sequence_mask"), loss),
        "grpo.kl_estimator": (not grpo.kl_coef, "grpo.kl_coef is 0"),
        "logging.wandb_project": (run_file.logging.wandb == "disabled", "logging.wandb is disabled"),
    }
    if grpo.correction != "clip" and grpo.updates_per_step == 1:
        why = f"{loss} and grpo.updates_per_step is 1, so that the ratio is 1 when the update is made"
        idle |= {"grpo.clip_low": (True, why), "grpo.clip_high": (True, why)}
    lines = [
        f"{key} has no effect: {why}"
        for key, (is_idle, why) in idle.items()
        if is_idle and _is_changed(run_file, key)
    ]
    return lines + [
        f"{key} of the reward term {term.name} has no effect: {why}"
        for term in run_file.rewards.terms
        for key, why in term.idle.items()
    ]


def _is_changed(run_file: RunFile, key: str) -> bool:
    section, leaf = key.split(".")
    settings = getattr(run_file, section)
    return bool(getattr(settings, leaf) != type(settings).model_fields[leaf].default)


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
