"""Do trainer and rollout engine agree? A program of its own, since vLLM lives in the process that starts it.

    python -m tests.unit.engines.exactness MODEL [--without salt|head]    prints one JSON object

Three real updates, each published while a long completion with the same system prompt is under way; then fresh
prompts are sampled, and their log-probs compared with the trainer's.
"""

import argparse
import asyncio
import json

import torch

from rl_empathy.config.sections import EvaluationSamplingConfig, OptimizerConfig, SamplingConfig
from rl_empathy.engines.generation import GenerationEngine
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.shared_prompt import Sample
from rl_empathy.engines.training import TrainingEngine
from rl_empathy.engines.vllm_engine import set_environment
from rl_empathy.engines.weight_arrays import PublishedWeights
from rl_empathy.types import Message, Occurrence, PolicyVersion, Prompt, RolloutGroup, Row
from tests.objectives import OfLogprobs

set_environment()
SYSTEM = list(
    range(40, 300)
)  # two whole blocks (of 128 on a CPU) of the prefix cache, shared by every prompt
NUM_UPDATES = 3


class UnsaltedEngine(GenerationEngine):
    """The mistake that cache_salt prevents."""

    def _engine_prompt(self, prompt):
        return {"prompt_token_ids": list(prompt.token_ids)}


def forget_the_head() -> None:
    """The mistake of a tied head that goes on with its own packed copy."""
    from rl_empathy.engines.weight_transfer import ArrayTransferEngine

    finish = ArrayTransferEngine.finish_weight_update

    def forget_and_finish(engine):
        engine._in_place = []
        finish(engine)

    ArrayTransferEngine.finish_weight_update = forget_and_finish


def prompt(index: int) -> Prompt:
    row = Row(id=str(index), messages=(Message(role="user", content="x"),))
    return Prompt(
        occurrence=Occurrence(0, index), row=row, token_ids=(*SYSTEM, *range(100 + index, 112 + index))
    )


def samples_of(groups: list[RolloutGroup]) -> list[Sample]:
    return [Sample(g.prompt.token_ids, [c.token_ids for c in g.completions]) for g in groups]


async def measure(path: str, without: str | None) -> dict[str, object]:
    model = PolicyModel(path, dtype="float32", layout="shared_prompt")
    settings = OptimizerConfig(learning_rate=5e-4, warmup_steps=0, schedule="constant")
    trainer = TrainingEngine(model, settings, num_steps=NUM_UPDATES, microbatch_tokens=2048)
    if without == "head":
        forget_the_head()
    engine_class = UnsaltedEngine if without == "salt" else GenerationEngine
    engine = engine_class(
        path,
        dtype="float32",
        max_model_tokens=1024,
        max_running_sequences=32,
        kv_cache_mib=256,
        seed=0,
        prefix_caching=True,
        clear_cache_on_load=False,
    )

    async def sample(index: int, *, tokens: int = 40) -> RolloutGroup:
        sampling = SamplingConfig(max_completion_tokens=tokens)
        return await engine.sample(prompt(index), sampling=sampling, group_size=2, seed=index)

    in_flight = asyncio.create_task(sample(50, tokens=400))
    for update in range(1, NUM_UPDATES + 1):
        groups = await asyncio.gather(*(sample(index) for index in range(4)))
        tokens = sum(len(c.token_ids) for g in groups for c in g.completions)
        trainer.update(OfLogprobs(samples_of(groups), lambda logprobs, n=tokens: -logprobs.sum() / n))
        await engine.load_weights(PublishedWeights.of(trainer.weights(), PolicyVersion(0, update)))
    groups = await asyncio.gather(*(sample(index) for index in range(4, 10)))
    rollout = torch.tensor([p for g in groups for c in g.completions for p in c.rollout_logprobs])
    difference = trainer.logprobs(samples_of(groups), temperature=1.0) - rollout
    likeliest = EvaluationSamplingConfig(temperature=0, max_completion_tokens=40)
    greedy = await engine.sample(prompt(11), sampling=likeliest, group_size=1, seed=11)
    result = {
        "tokens": len(difference),
        "mean_absolute": difference.abs().mean().item(),
        "mean": difference.mean().item(),
        "max": difference.abs().max().item(),
        "greedy_equal": greedy_of(model, greedy) == list(greedy.completions[0].token_ids),
        "fresh_versions": sorted(
            {str(s.version) for g in groups for c in g.completions for s in c.version_spans}
        ),
        "in_flight_versions": len(
            {s.version for c in (await in_flight).completions for s in c.version_spans}
        ),
        "layout": model.layout,
    }
    engine.stop()
    return result


def greedy_of(model: PolicyModel, group: RolloutGroup) -> list[int]:
    """What transformers' own greedy decoding writes with the trainer's weights."""
    model.language_model.set_attn_implementation("sdpa")
    ids = torch.tensor([group.prompt.token_ids])
    written = model.language_model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=len(group.completions[0].token_ids),
    )
    return written[0, ids.shape[1] :].tolist()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--without", choices=["salt", "head"])
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(measure(arguments.model, arguments.without))))
