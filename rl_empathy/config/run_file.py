"""The run file as one frozen object."""

import os
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, field_validator

from rl_empathy.config.sections import (
    ClusterConfig,
    DataConfig,
    EvaluateConfig,
    GRPOConfig,
    LoggingConfig,
    ModelConfig,
    RewardModelingConfig,
    RewardsConfig,
    RunConfig,
    Section,
    ServeConfig,
    SFTConfig,
)
from rl_empathy.config.sections.section import BrokenRule
from rl_empathy.schema import CHAIN_OF_EMPATHY, OutputSchema, named_schema


class RunFile(Section):
    """One experiment. After loading nobody sees a dict."""

    run: RunConfig = RunConfig()
    """What the run is called, and what it does."""
    model: ModelConfig
    """The language model that the run starts from."""
    data: DataConfig = DataConfig()
    """The counselling text."""
    output_schema: Annotated[str | OutputSchema, Field(alias="schema")] = "chain_of_empathy"
    """Spans of a completion: a name, or a declaration with spans and delimiters."""
    sft: SFTConfig = SFTConfig()
    """Stage sft."""
    reward_modeling: RewardModelingConfig = RewardModelingConfig()
    """Stage reward_modeling."""
    rewards: RewardsConfig = RewardsConfig()
    """What stage grpo rewards, and stage evaluate measures."""
    grpo: GRPOConfig = GRPOConfig()
    """Stage grpo."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Stage evaluate."""
    serve: ServeConfig = ServeConfig()
    """The endpoint."""
    cluster: ClusterConfig = ClusterConfig()
    """Where the roles run."""
    logging: LoggingConfig = LoggingConfig()
    """What is recorded where."""

    @property
    def code_folders(self) -> tuple[str, ...]:
        """Where the modules of the user's functions are looked for, beside Python's own places; absolute."""
        return (os.getcwd(), *(os.path.abspath(folder) for folder in self.run.import_from or ()))

    @property
    def schema_declaration(self) -> OutputSchema:
        return named_schema(self.output_schema) if isinstance(self.output_schema, str) else self.output_schema

    @field_validator("output_schema")
    @classmethod
    def _schema_is_known(cls, schema: str | OutputSchema) -> str | OutputSchema:
        if isinstance(schema, str):
            named_schema(schema)
        return schema

    def broken_rules(self) -> Iterator[BrokenRule]:
        yield from self._templates_cannot_write_the_reasoning()
        yield from self._not_deterministic()
        yield from self._ranks_without_work()
        yield from self._sequences_beyond_the_context()

    def _templates_cannot_write_the_reasoning(self) -> Iterator[BrokenRule]:
        schema = self.schema_declaration
        templated = CHAIN_OF_EMPATHY.reasoning_names(with_hidden=True)
        other = [name for name in schema.reasoning_names(with_hidden=True) if name not in templated]
        if other and "sft" in self.run.stages and self.data.missing_trace == "template":
            yield BrokenRule(
                ("data.missing_trace", "schema", "run.stages"),
                f"data.missing_trace template writes the spans of chain_of_empathy ({', '.join(templated)}); schema "
                f"{schema.name} has {', '.join(other)}. Set data.missing_trace: none, to teach answers without the "
                "reasoning; or drop, for data whose rows bring their traces (rl-empathy annotate writes some); or take "
                "stage sft out of run.stages, or choose schema chain_of_empathy or plain",
            )

    def _not_deterministic(self) -> Iterator[BrokenRule]:
        workers = self.cluster.rollout_workers
        if self.run.deterministic and (workers.max or workers.min) != workers.min:
            yield BrokenRule(
                ("cluster.rollout_workers.max", "cluster.rollout_workers.min", "run.deterministic"),
                f"run.deterministic wants a fixed number of workers: cluster.rollout_workers.max ({workers.max}) must "
                f"be left out or equal min ({workers.min})",
            )
        if self.run.deterministic and self.grpo.max_staleness:
            yield BrokenRule(
                ("grpo.max_staleness", "run.deterministic"),
                f"run.deterministic (true) needs grpo.max_staleness 0, got {self.grpo.max_staleness}; "
                "set grpo.max_staleness: 0, or run.deterministic: false",
            )

    def _ranks_without_work(self) -> Iterator[BrokenRule]:
        trainer, worker, grpo = self.cluster.policy_trainer, self.cluster.stage_worker, self.grpo
        completions = grpo.groups_per_step * grpo.group_size // grpo.updates_per_step
        if trainer.ranks > completions:
            divided = ("grpo.groups_per_step", "grpo.group_size", "grpo.updates_per_step")
            yield BrokenRule(
                ("cluster.policy_trainer.ranks", *divided),
                f"cluster.policy_trainer.ranks ({trainer.ranks}) is more than the {completions} completions of an "
                "update (grpo.groups_per_step * grpo.group_size / grpo.updates_per_step): some ranks would train "
                "nothing",
            )
        for name, role in (("policy_trainer", trainer), ("stage_worker", worker)):
            if role.ranks > 1 and 0 < role.num_gpus < 1:
                yield BrokenRule(
                    (f"cluster.{name}.num_gpus", f"cluster.{name}.ranks"),
                    f"cluster.{name}.num_gpus ({role.num_gpus:g}) with {role.ranks} ranks: NCCL wants a GPU a rank; "
                    f"set cluster.{name}.num_gpus: 1, or ranks: 1",
                )
        pairs = self.reward_modeling.batch_pairs
        if worker.ranks > pairs and "reward_modeling" in self.run.stages:
            yield BrokenRule(
                ("cluster.stage_worker.ranks", "reward_modeling.batch_pairs", "run.stages"),
                f"cluster.stage_worker.ranks ({worker.ranks}) is more than the {pairs} pairs of a step "
                "(reward_modeling.batch_pairs): some ranks would train nothing",
            )

    def _sequences_beyond_the_context(self) -> Iterator[BrokenRule]:
        made, prompt = self.model.from_scratch, self.data.max_prompt_tokens
        for stage, sampling in (("grpo", self.grpo.sampling), ("evaluate", self.evaluate.sampling)):
            if made is None or stage not in self.run.stages:
                continue
            if (longest := prompt + sampling.max_completion_tokens) > made.context_tokens:
                completion = f"{stage}.sampling.max_completion_tokens"
                yield BrokenRule(
                    (completion, "data.max_prompt_tokens", "model.from_scratch.context_tokens", "run.stages"),
                    f"data.max_prompt_tokens ({prompt}) + {completion} "
                    f"({sampling.max_completion_tokens}) must fit in model.from_scratch.context_tokens "
                    f"({made.context_tokens}); lower one of them, or set context_tokens: {longest}",
                )
