"""What the stages of a run share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_empathy.actors.rollout_worker import RolloutWorker
from rl_empathy.config.run_file import RunFile
from rl_empathy.data.conversations import prompt_messages, prompt_token_ids
from rl_empathy.data.loading import DataSet
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.observability.progress import Progress
from rl_empathy.observability.run_directory import RunDirectory
from rl_empathy.orchestration.fleet import RolloutWorkers
from rl_empathy.orchestration.fleet.calls import Resources, Role, start_roles
from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.schema import OutputSchema
from rl_empathy.types import PolicyVersion, Row


@dataclass(kw_only=True)
class RunContext:
    """The run file, the record, the data, and rollout workers that live as long as the run."""

    run_file: RunFile
    directory: RunDirectory
    data: DataSet
    log: MetricsLog
    progress: Progress
    stop: StopSignal = field(default_factory=StopSignal)
    tokenizer: Any = None
    cache: dict[str, Any] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    """Those that outlive a stage, by name."""
    _workers: list[Role] = field(default_factory=list)
    _loads: int = 0
    _told_too_long: set[str] = field(default_factory=set)

    @property
    def schema(self) -> OutputSchema:
        return self.run_file.schema_declaration

    @property
    def system_prompt(self) -> str:
        wanted = self.run_file.data.system_prompt
        return self.schema.instruction(self.run_file.data.language) if wanted is None else wanted

    def use_tokenizer_of(self, model: Path) -> None:
        """Take the tokenizer of the run's models, which is the same for all."""
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model)

    def next_version(self) -> PolicyVersion:
        """A name for the weights of a folder: attempt 0 is no trainer's, so no two sets of weights share a name."""
        self._loads += 1
        return PolicyVersion(0, self._loads)

    def prompts(self, rows: Sequence[Row]) -> list[tuple[Row, list[int]]]:
        """Rows with their token ids; those that are too long are dropped by name (C11)."""
        limit = self.run_file.data.max_prompt_tokens
        rendered = [
            (row, prompt_token_ids(self.tokenizer, prompt_messages(row, self.system_prompt))) for row in rows
        ]
        long = [f"{row.id} ({len(ids)})" for row, ids in rendered if len(ids) > limit]
        if long and not self._told_too_long.issuperset(long):
            self._told_too_long.update(long)
            names = ", ".join(long[:5]) + (" …" if len(long) > 5 else "")
            self.progress.warning(
                f"{len(long)} of {len(rows)} prompts are longer than data.max_prompt_tokens ({limit}) "
                f"and are left out: {names}"
            )
        return [(row, ids) for row, ids in rendered if len(ids) <= limit]

    async def rollout_workers(self, model: Path) -> RolloutWorkers:
        """The rollout workers, started when they are first wanted; every model of a run has the same shape."""
        run_file, settings = self.run_file, self.run_file.cluster.rollout_workers
        if not self._workers:
            self.progress.message(f"starting {settings.min} rollout worker(s)")
            synchronous = run_file.grpo.max_staleness == 0
            self._workers = await start_roles(
                RolloutWorker,
                {f"rollout_worker_{i}": (f"rollout_worker_{i}", str(model)) for i in range(settings.min)},
                Resources(
                    num_cpus=settings.num_cpus,
                    num_gpus=settings.num_gpus,
                    max_concurrency=1000,
                ),
                self.directory.logs,
                start_s=run_file.cluster.deadlines.start_s,
                dtype=run_file.model.dtype,
                max_model_tokens=self.max_model_tokens,
                max_running_sequences=settings.max_running_sequences,
                kv_cache_mib=settings.kv_cache_mib,
                seed=run_file.run.seed,
                synchronous=synchronous,
                deterministic=run_file.run.deterministic,
            )
        return RolloutWorkers(
            self._workers,
            run_file.cluster.deadlines,
            seed=run_file.run.seed,
            in_step=run_file.run.deterministic,
        )

    @property
    def max_model_tokens(self) -> int:
        """Longest prompt plus completion of any stage."""
        completions = (self.run_file.grpo.sampling, self.run_file.evaluate.sampling)
        return self.run_file.data.max_prompt_tokens + max(s.max_completion_tokens for s in completions)
