"""The command data."""

from pathlib import Path
from typing import Annotated

import typer

from rl_empathy.cli.arguments import RUN_FILE_HELP, read_one


def data(
    arguments: Annotated[list[str], typer.Argument(metavar="RUN.yaml|key=value", help=RUN_FILE_HELP)],
    write: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            file_okay=False,
            help="Write train.jsonl and held_out.jsonl in our own format there.",
        ),
    ] = None,
) -> int:
    """Print what a run file's data are: counts, lengths, languages, topics, an example."""
    run_file, _ = read_one(arguments)
    from rl_empathy.data.description import description
    from rl_empathy.data.loading import load_data
    from rl_empathy.data.rows import write_rows
    from rl_empathy.data.targets import with_targets

    read = with_targets(load_data(run_file.data, seed=run_file.run.seed), run_file)
    print(description(read), end="")
    if write is not None:
        for name, rows in (("train", read.train), ("held_out", read.held_out)):
            write_rows(write / f"{name}.jsonl", rows)
        print(
            f"\nwritten: {write / 'train.jsonl'} and {write / 'held_out.jsonl'} (data.train and data.held_out)"
        )
    return 0
