"""Traces for a whole file of question-answer rows, in their order; nothing that was done is done twice."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rl_empathy.config.sections import ColumnsConfig
from rl_empathy.data.formats import FORMATS
from rl_empathy.data.loading import OnRisk, read_source, screened
from rl_empathy.data.openai_teacher import OpenAITeacher
from rl_empathy.data.rows import row_to_dict, write_json_lines, write_rows
from rl_empathy.data.sources import Source, locate
from rl_empathy.data.teachers import (
    Language,
    RejectedTraceError,
    Teacher,
    TemplateTeacher,
    require_template_schema,
)
from rl_empathy.errors import AnnotationError, ConfigError, DataError, RlEmpathyError, Stopped
from rl_empathy.judging.chat_client import ChatSettings
from rl_empathy.schema import OutputSchema
from rl_empathy.types import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A row that got no trace, and why."""

    row: Row
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationSummary:
    """What became of the rows of a file.

    num_rows = num_annotated + num_already_annotated + num_rejected + num_risk_excluded + num_risk_templated
    """

    num_rows: int
    num_annotated: int
    """Got their trace now, from the teacher or from the cache."""
    num_cached: int
    """Those of them that came from the cache."""
    num_already_annotated: int
    """Had a trace, which was kept."""
    num_rejected: int
    num_risk_excluded: int
    """Speak of acute risk, and were left out."""
    num_risk_templated: int
    """Speak of acute risk, and got the fixed safe reply with its trace."""
    num_bad_rows: int
    """Could not be read, and were skipped."""
    commonest_reason: str | None
    """Why most of the rejected rows were rejected."""
    output: Path
    rejected: Path | None
    """Holds the rows that were set aside, each with its reason; none when there are none."""

    def lines(self) -> list[str]:
        """The summary for a reader, a line each."""
        kept = self.num_annotated + self.num_already_annotated + self.num_risk_templated
        lines = [
            f"{self.output}: {kept} rows with a trace, {self.num_already_annotated} of which had it before"
        ]
        if self.rejected is not None:
            lines.append(
                f"{self.rejected}: {self.num_rejected} rows without, each with its reason; the commonest: "
                f"{self.commonest_reason}"
            )
        if self.num_risk_excluded:
            lines.append(f"{self.num_risk_excluded} rows speak of acute risk and were left out (--on-risk)")
        if self.num_risk_templated:
            lines.append(f"{self.num_risk_templated} rows speak of acute risk and got the fixed safe reply")
        if self.num_bad_rows:
            lines.append(f"{self.num_bad_rows} rows could not be read and were skipped")
        return lines

    def require_one_accepted(self) -> None:
        """Refuse a result in which the teacher gave no row a usable trace.

        Raises:
            AnnotationError: Rows were rejected, and none was accepted.
        """
        if self.num_rejected and not self.num_annotated:
            raise AnnotationError(
                f"the teacher gave no usable trace for any of {self.num_rejected} rows; the commonest reason: "
                f"{self.commonest_reason}. Each row and its reason are in {self.rejected}"
            )


async def annotate(
    rows: Sequence[Row], teacher: Teacher, *, concurrency: int, on_done: Callable[[], None] = lambda: None
) -> list[Row | Rejected]:
    """Ask the teacher for the traces of the rows that have none, at most `concurrency` at a time.

    Raises:
        RlEmpathyError: The teacher cannot be used at all.
    """
    gate = asyncio.Semaphore(concurrency)

    async def annotated(row: Row) -> Row | Rejected:
        if row.trace is not None:
            return row
        async with gate:
            try:
                return replace(row, trace=await teacher.trace(row))
            except RejectedTraceError as error:
                return Rejected(row=row, reason=str(error))
            finally:
                on_done()

    try:
        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(annotated(row)) for row in rows]
    except* RlEmpathyError as group:
        first = group.exceptions[0]
    else:
        return [task.result() for task in made]
    raise first


def annotate_file(
    input: str,
    output: Path,
    *,
    format: str = "rows",
    language: Language,
    teacher: Literal["template", "openai"],
    schema: OutputSchema,
    base_url: str | None = None,
    model: str | None = None,
    api_key_name: str | None = None,
    concurrency: int = 8,
    columns: ColumnsConfig | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8-sig",
    on_bad_row: Literal["stop", "skip"] = "stop",
    on_risk: OnRisk = "exclude",
    settings: ChatSettings | None = None,
) -> AnnotationSummary:
    """Write `output`, rows with traces, and `<output>.rejected.jsonl`, the rows that got none.

    Rows that speak of acute risk are treated as `on_risk` says, before a teacher sees them. `settings` takes the
    place of base_url, model and api_key_name where patience matters. Teacher openai keeps its replies in
    `<output>.cache.jsonl`: stopped or killed, the next call goes on from there.

    Raises:
        ConfigError: The teacher lacks a setting, or cannot write this schema.
        DataError: The input is missing or has bad rows.
        ModelError: The teacher's server refuses, or is away for too long.
        Stopped: Ctrl-C.
    """
    _require_own_output(input, output)
    if teacher == "openai" and settings is None:
        settings = _chat_settings(base_url, model, api_key_name)
    if "template" in (teacher, on_risk):
        require_template_schema(schema)
    source = locate(
        input,
        hub=FORMATS[format].on_hub,
        language=FORMATS[format].language or language,
        columns=columns,
        delimiter=delimiter,
        encoding=encoding,
    )
    rows, counts = _read_and_screen(source, format, on_bad_row, on_risk)
    cache = Path(f"{output}.cache.jsonl")
    results, num_cached = _ask_teacher(
        rows, settings, schema, language=language, concurrency=concurrency, cache=cache
    )
    return _written(rows, results, output, num_cached=num_cached, counts=counts)


def _chat_settings(base_url: str | None, model: str | None, api_key_name: str | None) -> ChatSettings:
    if not base_url or not model:
        raise ConfigError("teacher openai needs base_url (up to /v1) and model")
    return ChatSettings(base_url=base_url, model=model, api_key_name=api_key_name)


def _read_and_screen(
    source: Source, format: str, on_bad_row: Literal["stop", "skip"], on_risk: OnRisk
) -> tuple[list[Row], Counter[str]]:
    """The rows for the teacher; the counts say how many were read, skipped, and treated as `on_risk` says."""
    read, num_bad_rows = read_source(source, format, on_bad_row=on_bad_row)
    counts = Counter(rows_read=len(read), bad_rows=num_bad_rows)
    return screened(read, on_risk, counts), counts


def _ask_teacher(
    rows: Sequence[Row],
    settings: ChatSettings | None,
    schema: OutputSchema,
    *,
    language: Language,
    concurrency: int,
    cache: Path,
) -> tuple[list[Row | Rejected], int]:
    """The rows with their traces, and how many of the traces came from the cache.

    Args:
        rows: Rows to annotate; those that have a trace keep it.
        settings: The server of teacher openai; None for teacher template.
        schema: The form in which teacher openai replies.
        language: Language of the rows that name none.
        concurrency: Rows at the same time.
        cache: File with the replies of teacher openai.

    Raises:
        Stopped: Ctrl-C.
    """

    def made() -> Teacher:
        if settings is None:
            return TemplateTeacher(language=language)
        patient = replace(settings, concurrency=concurrency)
        return OpenAITeacher(patient, schema, language=language, cache=cache)

    try:
        return asyncio.run(_annotate_all(rows, made, concurrency))
    except KeyboardInterrupt:
        kept = f"; the replies so far are in {cache}" if settings else ""
        raise Stopped(f"annotation stopped{kept}; run the same command again to go on") from None


async def _annotate_all(
    rows: Sequence[Row], made: Callable[[], Teacher], concurrency: int
) -> tuple[list[Row | Rejected], int]:
    async with contextlib.AsyncExitStack() as stack:
        teacher = made()
        if isinstance(teacher, OpenAITeacher):
            await stack.enter_async_context(teacher)
        progress = stack.enter_context(_progress())
        todo = progress.add_task("annotate", total=sum(row.trace is None for row in rows))
        results = await annotate(
            rows, teacher, concurrency=concurrency, on_done=lambda: progress.advance(todo)
        )
        return results, teacher.num_cached if isinstance(teacher, OpenAITeacher) else 0


def _written(
    rows: Sequence[Row],
    results: Sequence[Row | Rejected],
    output: Path,
    *,
    num_cached: int,
    counts: Counter[str],
) -> AnnotationSummary:
    kept = [result for result in results if isinstance(result, Row)]
    rejected = [result for result in results if isinstance(result, Rejected)]
    aside = Path(f"{output}.rejected.jsonl")
    write_rows(output, kept)
    if rejected:
        write_json_lines(aside, (row_to_dict(one.row) | {"reason": one.reason} for one in rejected))
    else:
        aside.unlink(missing_ok=True)
    already = sum(row.trace is not None for row in rows)
    reasons = Counter(one.reason for one in rejected).most_common(1)
    return AnnotationSummary(
        num_rows=counts["rows_read"],
        num_annotated=len(kept) - already,
        num_cached=num_cached,
        num_already_annotated=already - counts["risk_templated"],
        num_rejected=len(rejected),
        num_risk_excluded=counts["risk_excluded"],
        num_risk_templated=counts["risk_templated"],
        num_bad_rows=counts["bad_rows"],
        commonest_reason=reasons[0][0] if reasons else None,
        output=output,
        rejected=aside if rejected else None,
    )


def _require_own_output(input: str, output: Path) -> None:
    if output.exists() and Path(input).exists() and output.samefile(input):
        raise DataError(f"output {output} is the input itself; name another file, so that nothing is lost")


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
