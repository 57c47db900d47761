"""The command line, a file for each sort of command.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 2 the run file or an argument is wrong,
3 the cluster cannot give what the plan needs, 4 a stage failed, 75 stopped and can be resumed, 130
interrupted. Heavy libraries are imported when a command needs them, so that help and --check answer at once.
"""

import sys
from typing import NoReturn

import typer

from rl_empathy.cli.annotating import annotate
from rl_empathy.cli.configuration import config
from rl_empathy.cli.evaluation import curves, evaluate, samples
from rl_empathy.cli.reading import data
from rl_empathy.cli.serving import serve
from rl_empathy.cli.training import scale, train
from rl_empathy.startup import exit_code

app = typer.Typer(
    help="From counselling text to a served, empathetic language model.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (train, data, scale, curves, evaluate, samples, serve, annotate, config):
    app.command(no_args_is_help=True)(command)


def main(command: str | None = None) -> NoReturn:
    """Run the program, or one of its commands; ends the process with the exit code."""
    arguments = [*([] if command is None else [command]), *sys.argv[1:]]
    sys.exit(exit_code(lambda: app(arguments, prog_name="rl-empathy", standalone_mode=False)))
