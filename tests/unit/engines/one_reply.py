"""Samples one prompt with the real engine; prints JSON: python -m tests.unit.engines.one_reply MODEL"""

import asyncio
import json
import sys

from transformers import AutoTokenizer

from rl_empathy.config.sections import SamplingConfig
from rl_empathy.data.conversations import prompt_token_ids
from rl_empathy.engines.generation import GenerationEngine
from rl_empathy.types import Message, Occurrence, Prompt, Row


async def main(model: str) -> None:
    row = Row(id="p", messages=(Message(role="user", content=""),))
    ids = tuple(prompt_token_ids(AutoTokenizer.from_pretrained(model), row.messages))
    engine = GenerationEngine(
        model, dtype="float32", max_model_tokens=128, max_running_sequences=2, kv_cache_mib=16, seed=0,
        prefix_caching=False, clear_cache_on_load=False,
    )  # fmt: skip
    group = await engine.sample(
        Prompt(occurrence=Occurrence(0, 0), row=row, token_ids=ids),
        sampling=SamplingConfig(max_completion_tokens=60, temperature=1.0),
        group_size=2,
        seed=0,
    )
    engine.stop()
    print(json.dumps([[list(c.token_ids), c.finish_reason, c.text] for c in group.completions]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
