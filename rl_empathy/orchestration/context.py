"""What the stages of a run share."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rl_empathy.config.plan import Plan
from rl_empathy.config.run_file import RunFile
from rl_empathy.data.conversations import schema_beside
from rl_empathy.data.loading import DataSet
from rl_empathy.data.prompts import rendered
from rl_empathy.engines.model_folders import load_tokenizer
from rl_empathy.errors import DataError
from rl_empathy.evaluation.tfidf import TfidfSimilarity
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.observability.progress import Progress
from rl_empathy.observability.run_directory import RunDirectory
from rl_empathy.orchestration.fleet import RestartableRole, RestartBudget, RolloutWorkers, Savings
from rl_empathy.orchestration.memory_record import MemoryRecord
from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.schema import OutputSchema
from rl_empathy.types import PolicyVersion, Row


@dataclass(kw_only=True)
class Started:
    """What outlives a stage, each made when it is first wanted; see `roles`."""

    workers: RolloutWorkers | None = None
    workers_hold: tuple[Any, ...] = ()
    """What their engines were started with: only a model of the same can be loaded into them."""
    reward_model: RestartableRole | None = None
    reward_model_reads: tuple[Any, ...] = ()
    """The tokenizer and the output schema by which it reads completions."""
    tfidf: TfidfSimilarity | None = None
    """Likeness to the post, where no encoder is at hand."""


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
    plan: Plan | None = None
    """The plan of the run, once its cluster is known."""
    memory: MemoryRecord = field(default_factory=MemoryRecord)
    started: Started = field(default_factory=Started)
    _loads: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _told: set[str] = field(default_factory=set)

    @functools.cached_property
    def budget(self) -> RestartBudget:
        """The restarts that are left, for the whole run."""
        return RestartBudget(self.run_file.cluster.restarts, self.progress.warning, self.savings)

    @functools.cached_property
    def savings(self) -> Savings:
        """What was halved since a role ran out of memory."""
        return Savings(self.directory.path, self.run_file)

    @functools.cached_property
    def schema(self) -> OutputSchema:
        """The schema of the run file, which takes no token of the model's chat template as text."""
        declared = self.run_file.schema_declaration
        return declared if self.tokenizer is None else schema_beside(declared, self.tokenizer)

    @property
    def system_prompt(self) -> str:
        wanted = self.run_file.data.system_prompt
        return self.schema.instruction(self.run_file.data.language) if wanted is None else wanted

    def use_tokenizer_of(self, model: Path) -> None:
        """Take the tokenizer of a model folder: its stages train and sample models of this vocabulary."""
        self.tokenizer = load_tokenizer(model)
        self.__dict__.pop("schema", None)

    def of_model(self, model: Path, run_file: RunFile) -> "RunContext":
        """The same run and roles, with the tokenizer of a model and the settings under which it is asked."""
        context = replace(self, run_file=run_file)
        context.budget, context.savings = self.budget, self.savings
        context.use_tokenizer_of(model)
        return context

    def next_version(self) -> PolicyVersion:
        """A name for the weights of a folder: attempt 0 is no trainer's, so no two sets of weights share a name."""
        return PolicyVersion(0, next(self._loads))

    def prompts(self, rows: Sequence[Row]) -> list[tuple[Row, list[int]]]:
        """Rows with their token ids; those that are too long are dropped by name.

        Raises:
            DataError: The chat template refuses rows, and data.on_bad_row is stop.
        """
        limit = self.run_file.data.max_prompt_tokens
        made = rendered(rows, self.tokenizer, system_prompt=self.system_prompt, max_tokens=limit)
        self.leave_out(made.refused, "prompts", of=len(rows))
        self.leave_long_out(made.too_long, of=len(rows))
        return made.prompts

    def leave_long_out(self, long: Mapping[str, int], *, of: int) -> None:
        """Say, once, which prompts are too long; each with its tokens."""
        if long and not self._told.issuperset(long):
            self._told.update(long)
            first = ", ".join(f"{row} ({count})" for row, count in list(long.items())[:5])
            self.progress.warning(
                f"{len(long)} of {of} prompts are longer than data.max_prompt_tokens "
                f"({self.run_file.data.max_prompt_tokens}) and are left out: {first}{' …' if len(long) > 5 else ''}"
            )

    def leave_out(self, bad: Mapping[str, str], what: str, *, of: int) -> None:
        """Treat rows that cannot be used, each with its reason, as data.on_bad_row says.

        Raises:
            DataError: It says stop.
        """
        listed = "".join(f"\n  {row}: {problem}" for row, problem in list(bad.items())[:10])
        listed += "\n  …" if len(bad) > 10 else ""
        if bad and self.run_file.data.on_bad_row == "stop":
            raise DataError(
                f"{len(bad)} of {of} {what} cannot be used; mend them, or set data.on_bad_row: skip{listed}"
            )
        if bad and not self._told.issuperset(bad):
            self._told.update(bad)
            self.progress.warning(f"{len(bad)} of {of} {what} cannot be used and are left out:{listed}")

    @property
    def max_model_tokens(self) -> int:
        """Longest prompt plus completion of any stage."""
        longest = self.run_file.evaluate.sampling.max_completion_tokens
        if "grpo" in self.run_file.run.stages:
            longest = max(longest, self.run_file.grpo.sampling.max_completion_tokens)
        return self.run_file.data.max_prompt_tokens + longest
