"""What a rank does in `test_ranks`: the same updates, as one of several processes or alone."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from rl_empathy.config.sections import GRPOConfig, OptimizerConfig, RewardModelingConfig, SFTConfig
from rl_empathy.engines.embedding import SentenceEncoder
from rl_empathy.engines.encoder_training import EncoderTraining
from rl_empathy.engines.grpo_batch import ScoredGroup
from rl_empathy.engines.grpo_update import grpo_step
from rl_empathy.engines.language_models import probe_samples
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.ranks import meet
from rl_empathy.engines.sft_training import fine_tune
from rl_empathy.engines.shared_prompt import Sample
from rl_empathy.engines.token_table import TokenTable
from rl_empathy.engines.training import TrainingEngine
from rl_empathy.types import Occurrence, PolicyVersion, Prompt, RolloutGroup
from tests.fakes import make_completion, make_rewards, make_row
from tests.objectives import OfLogprobs

COMMON = {"groups_per_step": 3, "max_staleness": 0, "num_steps": 10}
CONFIGS = (
    GRPOConfig(**COMMON, kl_coef=0.0),
    GRPOConfig(**COMMON, kl_coef=0.01, kl_estimator="k1_in_reward", advantage="gdpo", updates_per_step=3),
)
"""The section of even and of odd steps."""
MICROBATCH_TOKENS = 96
STEPS = 5
ENCODER_TEXTS = ("work", "grief", "is hard", "I hear you", "how it hurts", "my mother", "since the spring")


def make_groups(step: int, *, groups: int = 3, size: int = 3) -> list[ScoredGroup]:
    """Groups of uneven lengths, which two ranks cannot share evenly; the same for a step in every process."""
    dice = random.Random(step)

    def ids(least: int, most: int) -> tuple[int, ...]:
        return tuple(dice.randrange(3, 200) for _ in range(dice.randint(least, most)))

    return [_scored(i, step, ids(5, 40), [ids(1, 60) for _ in range(size)], dice) for i in range(groups)]


def _scored(
    number: int, step: int, prompt: tuple[int, ...], completions: list[tuple[int, ...]], dice: random.Random
) -> ScoredGroup:
    terms = {"format": tuple(range(len(completions))), "answer": tuple(dice.random() for _ in completions)}
    totals = [sum(scores) for scores in zip(*terms.values(), strict=True)]
    tokens = sum(len(completion) for completion in completions)
    return ScoredGroup(
        group=RolloutGroup(
            prompt=Prompt(occurrence=Occurrence(0, number), row=make_row(number), token_ids=prompt),
            completions=tuple(make_completion(*completion) for completion in completions),
            admitted=PolicyVersion(1, step),
        ),
        rewards=make_rewards(*totals, terms=terms),
        reference_logprobs=np.array([dice.gauss(-5, 0.5) for _ in range(tokens)], dtype=np.float32)
        if CONFIGS[step % 2].kl_coef
        else None,
    )


def make_engine(folder: str, zero_stage: int) -> TrainingEngine:
    torch.manual_seed(0)
    settings = OptimizerConfig(learning_rate=1e-3, warmup_steps=0, schedule="constant")
    return TrainingEngine(
        PolicyModel(folder, dtype="float32", layout="shared_prompt"),
        settings,
        num_steps=10,
        microbatch_tokens=MICROBATCH_TOKENS,
        zero_stage=zero_stage,
    )


def train(engine: TrainingEngine, steps: range) -> list[dict[str, float]]:
    return [grpo_step(engine, make_groups(step), CONFIGS[step % 2]) for step in steps]


def flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    """All weights in a row; rank 0 alone has any."""
    return torch.cat([torch.empty(0), *(tensor.flatten().clone() for tensor in state.values())])


def run_case(folder: str, zero_stage: int) -> dict:
    """Five steps with a checkpoint after the third; then log-probs, a step that is thrown away, and a tiny one."""
    engine = make_engine(folder, zero_stage)
    metrics = train(engine, range(3))
    saved = engine.weights(), engine.optimizer_state()
    saved = tuple({name: tensor.clone() for name, tensor in part.items()} for part in saved)
    metrics += train(engine, range(3, STEPS))
    published = engine.weights()
    weights = flat(published)
    samples = [
        Sample(g.group.prompt.token_ids, [c.token_ids for c in g.group.completions]) for g in make_groups(9)
    ]
    logprobs = engine.logprobs(samples, temperature=1.0)
    spoilt = engine.update(OfLogprobs(samples, lambda logprobs: (logprobs * torch.inf).sum()))
    after_spoilt = flat(engine.weights())
    tiny = engine.update(OfLogprobs([Sample([1], [[2]])], lambda logprobs: -logprobs.sum()))
    return {
        "metrics": metrics,
        "saved": saved,
        "weights": weights,
        "published": {name: tuple(tensor.shape) for name, tensor in published.items()},
        "logprobs": logprobs,
        "spoilt": spoilt,
        "after_spoilt": after_spoilt,
        "tiny": tiny,
    }


def go_on(folder: str, zero_stage: int, saved: tuple) -> dict:
    """The last two steps, from what `run_case` saved after the third."""
    engine = make_engine(folder, zero_stage)
    engine.load(*saved)
    return {"metrics": train(engine, range(3, STEPS)), "weights": flat(engine.weights())}


def run_and_export(_folder: str, zero_stage: int, other: str, export_to: str) -> dict:
    """Two steps of another model, and its export."""
    engine = make_engine(other, zero_stage)
    metrics = train(engine, range(2))
    engine.export(Path(export_to), tokenizer_from=other)
    samples = probe_samples(engine.model.language_model.config)
    return {
        "layout": engine.model.layout,
        "metrics": metrics,
        "logprobs": engine.logprobs(samples, temperature=1.0),
    }


class PlainTriplet(NamedTuple):
    question: str
    positive: str
    negative: str
    kind: str = "easy"

    def is_right(self, answer: str) -> bool:
        return answer == self.positive


def make_triplets(step: int, count: int) -> list[PlainTriplet]:
    """Texts of uneven lengths."""
    dice = random.Random(step)

    def text() -> str:
        return " ".join(dice.choice(ENCODER_TEXTS) for _ in range(dice.randint(1, 9)))

    return [PlainTriplet(text(), text(), text()) for _ in range(count)]


def run_encoder(_folder: str, zero_stage: int, encoder: str, loss: str, saved: tuple | None = None) -> dict:
    """Three updates of an encoder, the second on one triplet; or the last one alone, from what was saved before it."""
    config = RewardModelingConfig(
        batch_pairs=5, num_steps=10, loss=loss, optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=0)
    )
    engine = EncoderTraining(SentenceEncoder.load(encoder), config, zero_stage=zero_stage)
    if saved:
        engine.load(*saved)
        return {"done": [engine.update(make_triplets(2, 5))], "weights": flat(engine.weights())}
    done = [engine.update(make_triplets(0, 5)), engine.update(make_triplets(1, 1))]
    saved = engine.weights(), engine.optimizer_state()
    saved = tuple({name: tensor.clone() for name, tensor in part.items()} for part in saved)
    done.append(engine.update(make_triplets(2, 5)))
    texts = [t.question for t in make_triplets(9, 4)]
    return {
        "done": done,
        "saved": saved,
        "weights": flat(engine.weights()),
        "vectors": engine.encoder.encode(texts, max_tokens=64),
    }


def run_fine_tuning(_folder: str, zero_stage: int, model: str, folder: str) -> dict:
    """Four steps of stage sft, with a stop after the second, and what it reported."""
    reports: dict[int, dict[str, float]] = {}

    def report(step: int, metrics: Mapping[str, float], checkpoint: Path | None = None) -> None:
        reports[step] = dict(metrics)

    dice = random.Random(0)
    samples = [
        Sample([dice.randrange(3, 200) for _ in range(9)], [[dice.randrange(3, 200) for _ in range(12)]])
        for _ in range(9)
    ]
    for should_stop in (lambda: max(reports) == 2, lambda: False):
        fine_tune(
            model,
            TokenTable.of(samples[:7]),
            TokenTable.of(samples[7:]),
            SFTConfig(
                num_steps=4, batch_tokens=80, microbatch_tokens=30, evaluate_every=1,
                optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=0),
            ),
            dtype="float32",
            seed=0,
            folder=Path(folder),
            report=report,
            tell=lambda note: None,
            should_stop=should_stop,
            zero_stage=zero_stage,
        )  # fmt: skip
    return {"reports": reports}


def run_rank(rank: int, ranks: int, port: int, folder: str, work: list[tuple], results) -> None:
    """The entry of a process: each piece of work in turn; rank 0 tells what came of it."""
    torch.set_num_threads(1)
    meet(rank, ranks, dist.TCPStore("127.0.0.1", port, ranks))
    for function, *arguments in work:
        result = function(folder, *arguments)
        if rank == 0:
            torch.save(result, results)
            results = results.with_name(results.name + "+")
    dist.barrier()
    dist.destroy_process_group()
