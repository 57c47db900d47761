"""Fine-tuning samples of many rows: prompts and targets as token ids, in several processes where there are many."""

import asyncio
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rl_empathy.config.sections import DataConfig
from rl_empathy.data.conversations import schema_beside, target_text, target_token_ids
from rl_empathy.data.prompts import rendered
from rl_empathy.engines.model_folders import load_tokenizer
from rl_empathy.engines.shared_prompt import Sample
from rl_empathy.engines.token_table import TokenTable
from rl_empathy.errors import DataError
from rl_empathy.observability.private_files import keep_files_private
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.fleet.calls import Resources, run_task
from rl_empathy.schema import OutputSchema
from rl_empathy.types import Row

MANY_ROWS = 5000
"""From here on processes are started for it: each takes some seconds to begin."""
BLOCK_ROWS = 2500
"""Rows that a process gets at a time."""


class Tokenized(NamedTuple):
    """Samples of rows, and what became of the other ones, by id."""

    table: TokenTable
    refused: dict[str, str]
    """As in `Rendered`."""
    too_long: dict[str, int]
    """As in `Rendered`."""
    unwritable: dict[str, str]
    """Targets that break the form: why."""


def tokenized(
    rows: Sequence[Row], tokenizer: Any, schema: OutputSchema, data: DataConfig, system_prompt: str
) -> Tokenized:
    """Make the samples of rows; those without a reference, or without a trace that may be made, have none."""
    prompts = rendered(rows, tokenizer, system_prompt=system_prompt, max_tokens=data.max_prompt_tokens)
    unwritable = dict[str, str]()

    def samples() -> Iterator[Sample]:
        for row, prompt in prompts.prompts:
            try:
                text = target_text(row, schema, language=data.language, missing_trace=data.missing_trace)
                if text is not None:
                    yield Sample(prompt, [target_token_ids(tokenizer, prompt, text, schema)])
            except DataError as error:
                unwritable[row.id] = str(error)

    return Tokenized(TokenTable.of(samples()), prompts.refused, prompts.too_long, unwritable)


async def fine_tuning_samples(context: RunContext, model: Path, rows: Sequence[Row]) -> TokenTable:
    """The samples of rows, in their order; rows that have none are told of.

    Args:
        context: Has taken the model's tokenizer.
        model: Folder of the model that is fine-tuned.
        rows: Training or held-out rows.

    Raises:
        DataError: A row cannot be used, and data.on_bad_row is stop.
    """
    data, prompt = context.run_file.data, context.system_prompt
    if len(rows) < MANY_ROWS:
        parts = [tokenized(rows, context.tokenizer, context.schema, data, prompt)]
    else:
        parts = await _in_blocks(context, model, rows)
    made = Tokenized(TokenTable.joined([part.table for part in parts]), {}, {}, {})
    for part in parts:
        made.refused.update(part.refused)
        made.too_long.update(part.too_long)
        made.unwritable.update(part.unwritable)
    context.leave_out(made.refused, "prompts", of=len(rows))
    context.leave_long_out(made.too_long, of=len(rows))
    context.leave_out(made.unwritable, "fine-tuning targets", of=len(rows))
    return made.table


async def _in_blocks(context: RunContext, model: Path, rows: Sequence[Row]) -> list[Tokenized]:
    worker, done = context.run_file.cluster.stage_worker, 0
    places = asyncio.Semaphore(max(1, int(worker.ranks * worker.num_cpus)))

    async def block(start: int) -> Tokenized:
        nonlocal done
        async with places:
            made = await run_task(
                _tokenized_block,
                rows[start : start + BLOCK_ROWS],
                str(model),
                context.run_file.schema_declaration,
                context.run_file.data,
                context.system_prompt,
                resources=Resources(num_cpus=1, num_gpus=0),
                seconds=context.run_file.cluster.deadlines.start_s,
                doing="write rows as tokens",
            )
        done += BLOCK_ROWS
        context.progress.waiting(f"rows as tokens: {min(done, len(rows)):,} of {len(rows):,}")
        return made  # type: ignore[no-any-return]

    async with asyncio.TaskGroup() as tasks:  # one that fails ends the others
        blocks = [tasks.create_task(block(start)) for start in range(0, len(rows), BLOCK_ROWS)]
    return [each.result() for each in blocks]


@lru_cache(maxsize=1)
def _tokenizer(model: str) -> Any:
    return load_tokenizer(Path(model))


def _tokenized_block(
    rows: Sequence[Row], model: str, declared: OutputSchema, data: DataConfig, system_prompt: str
) -> Tokenized:
    """Runs in a process of the cluster."""
    keep_files_private()
    tokenizer = _tokenizer(model)
    return tokenized(rows, tokenizer, schema_beside(declared, tokenizer), data, system_prompt)
