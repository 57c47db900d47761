"""Do vLLM and the trainer agree, architecture by architecture? A program of its own: vLLM lives in its process.

    python -m tests.unit.engines.agreement NAME ...    prints one JSON object an architecture, as it is done

Completions are sampled before and after three real updates and a publish, and their log-probs compared with the
trainer's.
"""

import asyncio
import json
import logging
import multiprocessing
import sys
import tempfile
from pathlib import Path

import torch

from rl_empathy.config.sections import OptimizerConfig, SamplingConfig
from rl_empathy.engines.generation import GenerationEngine
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.shared_prompt import Sample
from rl_empathy.engines.training import TrainingEngine
from rl_empathy.engines.vllm_engine import set_environment
from rl_empathy.engines.weight_arrays import PublishedWeights
from rl_empathy.types import Message, Occurrence, PolicyVersion, Prompt, RolloutGroup, Row
from tests.architectures import VOCABULARY, make_architecture
from tests.objectives import OfLogprobs
from tests.tiny_models import make_tiny_tokenizer

set_environment()
PROMPT_TOKENS = 24
NUM_UPDATES = 3


def prompt(index: int) -> Prompt:
    dice = torch.Generator().manual_seed(index)
    row = Row(id=str(index), messages=(Message(role="user", content="x"),))
    ids = torch.randint(3, VOCABULARY, (PROMPT_TOKENS,), generator=dice).tolist()
    return Prompt(occurrence=Occurrence(0, index), row=row, token_ids=tuple(ids))


def samples_of(groups: list[RolloutGroup]) -> list[Sample]:
    return [Sample(g.prompt.token_ids, [c.token_ids for c in g.completions]) for g in groups]


async def measure(folder: str) -> dict[str, object]:
    model = PolicyModel(folder, dtype="float32", layout="shared_prompt")
    settings = OptimizerConfig(learning_rate=5e-3, warmup_steps=0, schedule="constant")
    trainer = TrainingEngine(model, settings, num_steps=NUM_UPDATES, microbatch_tokens=2048)
    engine = GenerationEngine(
        folder, dtype="float32", max_model_tokens=128, max_running_sequences=16, kv_cache_mib=64, seed=0,
        prefix_caching=True, clear_cache_on_load=False,
    )  # fmt: skip

    async def groups(start: int) -> list[RolloutGroup]:
        sampling = SamplingConfig(temperature=1.0, max_completion_tokens=24)
        ask = (
            engine.sample(prompt(i), sampling=sampling, group_size=2, seed=i) for i in range(start, start + 4)
        )
        return await asyncio.gather(*ask)

    def difference(found: list[RolloutGroup]) -> float:
        rollout = torch.tensor([p for g in found for c in g.completions for p in c.rollout_logprobs])
        return (trainer.logprobs(samples_of(found), temperature=1.0) - rollout).abs().max().item()

    for module in model.modules():  # vLLM computes some families by transformers' classes, and marks these
        module.do_not_compile = True
    before = await groups(0)
    result: dict[str, object] = {"layout": model.layout, "before": difference(before)}
    for _ in range(NUM_UPDATES):
        trainer.update(OfLogprobs(samples_of(before), lambda logprobs: -logprobs.mean()))
    result["moved"] = difference(before)
    await engine.load_weights(PublishedWeights.of(trainer.weights(), PolicyVersion(0, 1)))
    result["after"] = difference(await groups(4))
    engine.stop()
    return result


def report(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            make_tiny_tokenizer().save_pretrained(make_architecture(name, Path(folder)))
            found = asyncio.run(measure(folder))
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {str(error)[-300:]}"}
    print(json.dumps({"name": name} | found), flush=True)


if __name__ == "__main__":
    import deepspeed  # noqa: F401  once for all: each architecture gets a fork of this process
    import vllm.v1.engine.llm_engine  # noqa: F401

    logging.disable(logging.WARNING)
    for name in sys.argv[1:]:
        child = multiprocessing.get_context("fork").Process(target=report, args=(name,))
        child.start()
        child.join()
