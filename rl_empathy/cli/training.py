"""Commands around a run: train, scale."""

from pathlib import Path
from typing import Annotated

import typer

from rl_empathy.checking import print_check
from rl_empathy.cli.arguments import RUN_CONFIG, RUN_FILE_HELP, read_one, require_folder
from rl_empathy.config.loading import load_run_file
from rl_empathy.config.needs import require_what_stages_need
from rl_empathy.errors import ConfigError
from rl_empathy.startup import keep_traceback, prepare_environment


def train(
    arguments: Annotated[list[str], typer.Argument(metavar="RUN.yaml|key=value", help=RUN_FILE_HELP)],
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Print the resolved run file, the plan and the data; try your own functions once; start no run.",
        ),
    ] = False,
    show: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="With --check: N examples of what the model is trained on."),
    ] = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Set what is there of this run aside, and begin anew.")
    ] = False,
    allow_config_change: Annotated[
        bool, typer.Option("--allow-config-change", help="Resume although the configuration differs.")
    ] = False,
) -> int:
    """Run the stages of a run file. The same command again resumes; a finished run prints its result."""
    run_file, source = read_one(arguments)
    require_what_stages_need(run_file, source)
    prepare_environment()
    from rl_empathy.own_code import require_own_code

    require_own_code(run_file, source)
    if check:
        return print_check(run_file, source, show=show)
    try:
        from rl_empathy.orchestration.run import run

        return run(run_file, fresh=fresh, allow_config_change=allow_config_change)
    except Exception as error:
        keep_traceback(run_file, error)
        raise


def scale(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    rollout_workers: Annotated[
        int | None,
        typer.Option("--rollout-workers", min=1, help="Number to have; left out: the run decides again."),
    ] = None,
) -> int:
    """Change the number of rollout workers of a run in stage grpo, from its next step on."""
    require_folder(run)
    from rl_empathy.orchestration.scaling import ask_by_hand

    if (run / RUN_CONFIG).exists() and load_run_file(run / RUN_CONFIG, check_paths=False).run.deterministic:
        raise ConfigError(
            f"{run} is deterministic: the number of its rollout workers is part of what it computes"
        )
    ask_by_hand(run, rollout_workers)
    asked = "as many as it needs" if rollout_workers is None else str(rollout_workers)
    print(f"{run} is asked for {asked} rollout workers, from its next step on")
    return 0
