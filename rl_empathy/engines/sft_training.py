"""Supervised fine-tuning: traces and answers as targets, loss on the assistant's tokens only."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch

from rl_empathy.config.sections import SFTConfig
from rl_empathy.engines.objectives.sft import Likelihood
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.ranks import from_every_rank
from rl_empathy.engines.shards import ZeroStage
from rl_empathy.engines.shared_prompt import Sample
from rl_empathy.engines.token_table import TokenTable
from rl_empathy.engines.training import POLICY, TrainingEngine
from rl_empathy.errors import TrainingError

MAX_SKIPPED_UPDATES = 3


class Report(Protocol):
    """Told of every step, and of the checkpoint that it wrote."""

    def __call__(self, step: int, metrics: Mapping[str, float], checkpoint: Path | None = None) -> None: ...


def step_batches(num_tokens: Sequence[int], config: SFTConfig, *, seed: int) -> list[list[int]]:
    """Which samples each optimizer step trains: epochs in seeded orders, cut by tokens.

    Args:
        num_tokens: Tokens of each sample of the training side.
        config: Section sft.
        seed: The run's.

    Returns:
        Numbers of samples, step by step; known before the first step, so that a resume needs only the step.
    """
    batches: list[list[int]] = []
    batch: list[int] = []
    used = 0
    epochs = config.num_epochs if config.num_steps is None else float("inf")
    epoch = 0
    while epoch < epochs and len(batches) < (config.num_steps or float("inf")):
        order = list(range(len(num_tokens)))
        random.Random(f"{seed}/sft/{epoch}").shuffle(order)
        share = min(1.0, epochs - epoch)
        for index in order[: max(1, round(share * len(order)))]:
            if batch and used + num_tokens[index] > config.batch_tokens:
                batches.append(batch)
                batch, used = [], 0
            batch.append(index)
            used += num_tokens[index]
        epoch += 1
    if batch:
        batches.append(batch)
    return batches[: config.num_steps] if config.num_steps else batches


def fine_tune(
    model_path: str,
    train: TokenTable,
    held_out: TokenTable,
    config: SFTConfig,
    *,
    dtype: str,
    seed: int,
    folder: Path,
    report: Report,
    tell: Callable[[str], None],
    should_stop: Callable[[], bool],
    zero_stage: ZeroStage = 0,
) -> None:
    """Train, evaluate, checkpoint, and export the model to `folder/model`; goes on from the last checkpoint.

    With several ranks each calls it, and rank 0 alone writes.

    Args:
        model_path: Starting model.
        train: What is trained, end tokens included.
        held_out: What its loss is measured on.
        dtype: "float32" or "bfloat16".
        seed: Seed of torch and of the order of the samples.
        folder: Folder of the stage.
        tell: Told what the user should know.
        should_stop: When it says so on any rank, a checkpoint is written and the training ends without an export.
        zero_stage: What the ranks shard: 0 nothing; 2 moments and gradients; 3 weights too.

    Raises:
        TrainingError: Loss or gradient was not finite in `MAX_SKIPPED_UPDATES` updates in a row.
    """
    torch.manual_seed(seed)
    unseen = list(held_out)
    batches = step_batches(train.num_tokens, config, seed=seed)
    engine = _engine(model_path, config, tell, dtype=dtype, num_steps=len(batches), zero_stage=zero_stage)
    start = _resume(engine, folder)
    if start == 0:
        report(0, {"sft/held_out_loss": held_out_loss(engine, unseen)})
    for step in range(start + 1, len(batches) + 1):
        metrics = _step(engine, [train[i] for i in batches[step - 1]], step)
        if step % config.evaluate_every == 0 or step == len(batches):
            metrics["sft/held_out_loss"] = held_out_loss(engine, unseen)
        stops = any(from_every_rank(should_stop()))
        saves = stops or step % config.checkpoint_every == 0 or step == len(batches)
        checkpoint = engine.write_checkpoint(folder, step, name=POLICY, documents={}) if saves else None
        report(step, metrics, checkpoint)
        if stops:
            return
    engine.export(folder / "model", tokenizer_from=model_path)


def held_out_loss(engine: TrainingEngine, samples: Sequence[Sample]) -> float:
    """Mean negative log-likelihood of the held-out completions' tokens, nats."""
    return float(-engine.logprobs(samples, temperature=1.0).mean()) if samples else float("nan")


def _engine(
    model_path: str,
    config: SFTConfig,
    tell: Callable[[str], None],
    *,
    dtype: str,
    num_steps: int,
    zero_stage: ZeroStage,
) -> TrainingEngine:
    """The starting model, ready to be trained; `tell` gets a note on the way it computes, if there is one."""
    model = PolicyModel(model_path, dtype=dtype, layout="shared_prompt")
    engine = TrainingEngine(
        model,
        config.optimizer,
        num_steps=num_steps,
        microbatch_tokens=config.microbatch_tokens,
        zero_stage=zero_stage,
    )
    if model.note and engine.rank == 0:
        tell(model.note)
    return engine


def _step(engine: TrainingEngine, samples: Sequence[Sample], step: int) -> dict[str, float]:
    """Make one optimizer step; after too many in a row that were not finite, no further one is tried."""
    objective = Likelihood(samples)
    done = engine.update(objective)
    if engine.skipped_in_a_row >= MAX_SKIPPED_UPDATES:
        raise TrainingError(
            f"loss or gradient was not finite in {engine.skipped_in_a_row} updates in a row, up to step {step}; "
            "lower sft.optimizer.learning_rate"
        )
    return {
        "sft/loss": done.loss,
        "sft/grad_norm": done.grad_norm,
        "sft/learning_rate": done.learning_rate,
        "sft/trained_tokens": objective.num_tokens,
        "sft/skipped_updates": float(done.skipped),
    }


def _resume(engine: TrainingEngine, folder: Path) -> int:
    checkpoint = engine.newest_checkpoint(folder)
    if checkpoint is None:
        return 0
    engine.read_checkpoint(checkpoint, name=POLICY)
    return checkpoint.step
