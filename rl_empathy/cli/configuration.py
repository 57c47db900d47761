"""The command config."""

from collections.abc import Sequence
from typing import Annotated

import typer

from rl_empathy.cli.arguments import RUN_FILE_HELP, read_one, split
from rl_empathy.config.loading import difference, dump_run_file, load_run_file
from rl_empathy.config.reference import reference_text
from rl_empathy.errors import ConfigError
from rl_empathy.schema import NAMED_SCHEMAS, OutputSchema


def config(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="RUN.yaml|key=value", help=RUN_FILE_HELP)
    ] = None,
    reference: Annotated[bool, typer.Option("--reference", help="Print every key there is.")] = False,
    schemas: Annotated[
        bool, typer.Option("--schemas", help="Print the output schemas that a run file can name, as written.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Print what differs between two run files, a line a key.")
    ] = False,
) -> int:
    """Print a run file as it resolves, what differs between two, the schemas, or the reference of all keys."""
    if reference:
        print(reference_text(), end="")
    elif schemas:
        print("\n".join(map(_schema_text, NAMED_SCHEMAS.values())), end="")
    elif diff:
        print("".join(f"{line}\n" for line in _difference(arguments or [])), end="")
    else:
        print(dump_run_file(read_one(arguments or [])[0]), end="")
    return 0


def _difference(arguments: Sequence[str]) -> list[str]:
    paths, overrides = split(arguments)
    if len(paths) != 2:
        given = ", ".join(map(str, paths)) or "none"
        raise ConfigError(f"--diff wants two run files, got {given}")
    return difference(*(load_run_file(path, overrides, check_paths=False) for path in paths))


def _schema_text(schema: OutputSchema) -> str:
    """A schema with a completion as it writes it."""
    spans = {span.name: span.description or f"the {span.name}" for span in schema.spans}
    written = "".join(f"    {line}\n" for line in schema.render(spans).splitlines())
    return f"schema: {schema.name}   (its answer is the span {schema.answer})\n{written}"
