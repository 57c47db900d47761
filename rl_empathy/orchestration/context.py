"""What the stages of a run share."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_empathy.config.run_file import RunFile
from rl_empathy.data.conversations import prompt_messages, prompt_token_ids
from rl_empathy.data.loading import DataSet
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.observability.progress import Progress
from rl_empathy.observability.run_directory import RunDirectory
from rl_empathy.orchestration.fleet import RestartableRole, RestartBudget, RolloutWorkers, Savings
from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.schema import OutputSchema
from rl_empathy.types import PolicyVersion, Row


@dataclass(kw_only=True)
class RunContext:
    """The run file, the record, the data, and the roles that live as long as the run."""

    run_file: RunFile
    directory: RunDirectory
    data: DataSet
    log: MetricsLog
    progress: Progress
    stop: StopSignal = field(default_factory=StopSignal)
    tokenizer: Any = None
    cache: dict[str, Any] = field(default_factory=dict)
    workers: RolloutWorkers | None = None
    """Started when they are first wanted; see `roles`."""
    reward_model: RestartableRole | None = None
    """Likewise."""
    _loads: int = 0
    _told_too_long: set[str] = field(default_factory=set)

    @functools.cached_property
    def budget(self) -> RestartBudget:
        """Of restarts, for the whole run."""
        return RestartBudget(self.run_file.cluster.restarts, self.progress.warning, self.savings)

    @functools.cached_property
    def savings(self) -> Savings:
        """What was halved since a role ran out of memory."""
        return Savings(self.directory.path, self.run_file)

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

    @property
    def max_model_tokens(self) -> int:
        """Longest prompt plus completion of any stage."""
        completions = (self.run_file.grpo.sampling, self.run_file.evaluate.sampling)
        return self.run_file.data.max_prompt_tokens + max(s.max_completion_tokens for s in completions)
