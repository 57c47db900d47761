"""Real roles for benchmarks: those of a finished quickstart, or of any run file. Not a benchmark itself."""

import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from quickstart import run

from rl_empathy.config.loading import load_run_file
from rl_empathy.config.plan import make_plan
from rl_empathy.config.run_file import RunFile
from rl_empathy.data.loading import load_data
from rl_empathy.data.prompts import PromptStream
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.observability.progress import Progress
from rl_empathy.observability.run_directory import RunDirectory
from rl_empathy.orchestration.base_model import base_model
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.fleet import Fleet
from rl_empathy.orchestration.placement import join_cluster
from rl_empathy.orchestration.stages.grpo import staff


@dataclass(frozen=True, kw_only=True)
class RealRoles:
    """Roles that are up, the trainer at its first policy version."""

    run_file: RunFile
    fleet: Fleet
    prompts: PromptStream
    folder: Path
    """For records; removed afterwards."""


def finished_quickstart() -> Path:
    """The directory of the quickstart with seed 0, which is carried out unless `quickstart.py` has done it."""
    return run("configs/quickstart.yaml", "quickstart_seed_0", "run.seed=0")


@asynccontextmanager
async def quickstart_roles(*settings: str) -> AsyncIterator[RealRoles]:
    """The roles of stage grpo of the quickstart, with its fine-tuned policy and its reward model."""
    record = finished_quickstart()
    async with roles(
        record / "config.yaml",
        *settings,
        policy=record / "sft" / "model",
        reward_model=record / "reward_modeling" / "model",
    ) as real:
        yield real


@asynccontextmanager
async def roles(
    run_file: Path, *settings: str, policy: Path | None = None, reward_model: Path | None = None
) -> AsyncIterator[RealRoles]:
    """The roles of stage grpo of a run file.

    Args:
        run_file: The run file.
        *settings: section.key=value.
        policy: Folder of the policy; the run file's model when left out.
        reward_model: Folder of the embedding reward model, for the term `answer`.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = load_run_file(run_file, [*settings, f"run.directory={folder}"])
        with Progress(sys.stderr) as progress:
            directory = RunDirectory.open(config, fresh=False, allow_config_change=False)
            log = MetricsLog(directory.path / "metrics.jsonl", progress)
            data = load_data(config.data, seed=config.run.seed)
            context = RunContext(run_file=config, directory=directory, data=data, log=log, progress=progress)
            join_cluster(config.cluster, make_plan(config))
            try:
                model = policy.absolute() if policy else await base_model(context)
                context.use_tokenizer_of(model)
                fleet = await staff(
                    context, model, {"reward_modeling": reward_model.absolute()} if reward_model else {}
                )
                await fleet.trainer.resume()
                prompts = PromptStream(context.prompts(data.train), seed=config.run.seed)
                yield RealRoles(run_file=config, fleet=fleet, prompts=prompts, folder=directory.path)
            finally:
                ray.shutdown()
                directory.close()
