"""The command annotate, and its options."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rl_empathy.config.loading import load_run_file
from rl_empathy.errors import ConfigError

InputArgument = Annotated[
    str, typer.Argument(help="A file of question-answer rows, or the hub name of a data set.")
]
OutputArgument = Annotated[Path, typer.Argument(help="Rows with traces, JSON lines.")]
FormatOption = Annotated[
    str, typer.Option(help="As data.format of a run file: rows, columns, sharegpt, messages, alpaca, …")
]
ColumnOption = Annotated[
    list[str] | None, typer.Option(help="For format columns: prompt=FIELD, answer=, topic=, id=.")
]
DelimiterOption = Annotated[
    str | None,
    typer.Option(help="Between the columns of a CSV file; left out: a comma, or a tab in a .tsv."),
]
EncodingOption = Annotated[str, typer.Option(help="Of text files: cp1252, gb18030, …")]
LanguageOption = Annotated[Literal["en", "zh"], typer.Option(help="Language of the text.")]
TeacherOption = Annotated[
    Literal["template", "openai"], typer.Option(help="Offline templates, or a model behind a URL.")
]
SchemaOption = Annotated[str, typer.Option(help="Name of a schema, or a run file that declares one.")]
BaseUrlOption = Annotated[str | None, typer.Option(help="Of the teacher, up to /v1.")]
ModelOption = Annotated[str | None, typer.Option(help="Name of the teacher's model.")]
ApiKeyNameOption = Annotated[
    str | None, typer.Option(help="Name of the environment variable with the teacher's key.")
]
ConcurrencyOption = Annotated[int, typer.Option(min=1, help="Rows at the same time.")]
OnBadRowOption = Annotated[Literal["stop", "skip"], typer.Option(help="What an unreadable row does.")]
OnRiskOption = Annotated[
    Literal["keep", "exclude", "template"],
    typer.Option(help="What a row that speaks of acute risk does (see data.on_risk)."),
]


def annotate(
    input: InputArgument,
    output: OutputArgument,
    format: FormatOption = "rows",
    column: ColumnOption = None,
    delimiter: DelimiterOption = None,
    encoding: EncodingOption = "utf-8-sig",
    language: LanguageOption = "en",
    teacher: TeacherOption = "template",
    schema: SchemaOption = "chain_of_empathy",
    base_url: BaseUrlOption = None,
    model: ModelOption = None,
    api_key_name: ApiKeyNameOption = None,
    concurrency: ConcurrencyOption = 8,
    on_bad_row: OnBadRowOption = "stop",
    on_risk: OnRiskOption = "exclude",
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
