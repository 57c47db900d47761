"""Rows whose fine-tuning target cannot be written, found before anything starts."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from rl_empathy.config.run_file import RunFile
from rl_empathy.data.conversations import target_text
from rl_empathy.data.loading import DataSet
from rl_empathy.errors import DataError
from rl_empathy.types import Row


def with_targets(data: DataSet, run_file: RunFile) -> DataSet:
    """The data without the rows whose target the schema cannot write: a reference that quotes a delimiter, say.

    A run without stage sft keeps them.

    Raises:
        DataError: There are such rows, and data.on_bad_row is stop; names the first ten.
    """
    if "sft" not in run_file.run.stages:
        return data
    bad: list[str] = []
    train, held_out = (_writable(rows, run_file, bad) for rows in (data.train, data.held_out))
    if not bad:
        return data
    listed = "".join(f"\n  {problem}" for problem in bad[:10]) + ("\n  …" if len(bad) > 10 else "")
    if run_file.data.on_bad_row == "stop":
        raise DataError(
            f"data: the fine-tuning target of {len(bad)} row(s) in {data.source} cannot be written; mend them, or set "
            f"data.on_bad_row: skip{listed}"
        )
    logging.getLogger(__name__).warning(
        "the fine-tuning target of %d row(s) in %s cannot be written; they are skipped:%s",
        len(bad),
        data.source,
        listed,
    )
    counts = {**data.counts, "bad_rows": data.counts["bad_rows"] + len(bad)}
    return replace(data, train=train, held_out=held_out, counts=counts)


def _writable(rows: Sequence[Row], run_file: RunFile, bad: list[str]) -> tuple[Row, ...]:
    config, schema = run_file.data, run_file.schema_declaration
    kept = []
    for row in rows:
        try:
            target_text(row, schema, language=config.language, missing_trace=config.missing_trace)
        except DataError as error:
            bad.append(f"row {row.id}: {error}")
        else:
            kept.append(row)
    return tuple(kept)
