"""The command annotate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rl_empathy.config.loading import load_run_file
from rl_empathy.errors import ConfigError


def annotate(
    input: Annotated[
        str, typer.Argument(help="A file of question-answer rows, or the hub name of a data set.")
    ],
    output: Annotated[Path, typer.Argument(help="Rows with traces, JSON lines.")],
    format: Annotated[
        str, typer.Option(help="As data.format of a run file: rows, columns, sharegpt, messages, alpaca, …")
    ] = "rows",
    column: Annotated[
        list[str] | None, typer.Option(help="For format columns: prompt=FIELD, answer=, topic=, id=.")
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(help="Between the columns of a CSV file; left out: a comma, or a tab in a .tsv."),
    ] = None,
    encoding: Annotated[str, typer.Option(help="Of text files: cp1252, gb18030, …")] = "utf-8-sig",
    language: Annotated[Literal["en", "zh"], typer.Option(help="Language of the text.")] = "en",
    teacher: Annotated[
        Literal["template", "openai"], typer.Option(help="Offline templates, or a model behind a URL.")
    ] = "template",
    schema: Annotated[str, typer.Option(help="Name of a schema, or a run file that declares one.")] = (
        "chain_of_empathy"
    ),
    base_url: Annotated[str | None, typer.Option(help="Of the teacher, up to /v1.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the teacher's model.")] = None,
    api_key_name: Annotated[
        str | None, typer.Option(help="Name of the environment variable with the teacher's key.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Rows at the same time.")] = 8,
    on_bad_row: Annotated[
        Literal["stop", "skip"], typer.Option(help="What an unreadable row does.")
    ] = "stop",
    on_risk: Annotated[
        Literal["keep", "exclude", "template"],
        typer.Option(help="What a row that speaks of acute risk does (see data.on_risk)."),
    ] = "exclude",
) -> int:
    """Write traces (the reasoning before the best answer) for question-answer rows."""
    from rl_empathy.data.annotation import annotate_file

    summary = annotate_file(
        input,
        output,
        format=format,
        language=language,
        teacher=teacher,
        schema=_schema(schema),
        base_url=base_url,
        model=model,
        api_key_name=api_key_name,
        concurrency=concurrency,
        columns=_columns(column or []),
        delimiter=delimiter,
        encoding=encoding,
        on_bad_row=on_bad_row,
        on_risk=on_risk,
    )
    print("\n".join(summary.lines()))
    summary.require_one_accepted()
    return 0


def _schema(text: str) -> Any:
    from rl_empathy.schema import named_schema

    if text.endswith((".yaml", ".yml")):
        return load_run_file(text, check_paths=False).schema_declaration
    try:
        return named_schema(text)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _columns(pairs: Sequence[str]) -> Any:
    from pydantic import ValidationError

    from rl_empathy.config.sections import ColumnsConfig

    if not pairs:
        return None
    try:
        return ColumnsConfig.model_validate(dict(pair.split("=", 1) for pair in pairs))
    except (ValidationError, ValueError):
        text = f"--column wants prompt=FIELD, and answer=, topic=, id= where there are any, got {pairs}"
        raise ConfigError(text) from None
