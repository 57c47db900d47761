"""Commands that look at what was trained: evaluate, samples, curves."""

from pathlib import Path
from typing import Annotated

import typer

from rl_empathy.cli.arguments import RUN_CONFIG, RunFileOption, require_folder, split
from rl_empathy.config.loading import load_run_file
from rl_empathy.errors import ConfigError, ModelError
from rl_empathy.startup import prepare_environment


def evaluate(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="RUN|MODEL|key=value", help="Run directories or model folders, and settings."),
    ],
    run_file: RunFileOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", dir_okay=False, writable=True, help="Write the result there, too (JSON)."),
    ] = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="Print every measure instead of the ten that lead.")
    ] = False,
) -> int:
    """Evaluate models side by side on the held-out prompts of one run (without --run-file: the first one)."""
    paths, overrides = split(arguments)
    for path in paths:
        require_folder(path)
    own = run_file or next((path / RUN_CONFIG for path in paths if (path / RUN_CONFIG).exists()), None)
    if own is None:
        raise ConfigError(
            "a model folder does not say on what to evaluate it; give --run-file RUN.yaml, or a run directory"
        )
    resolved = load_run_file(own, overrides)
    prepare_environment()
    from rl_empathy.orchestration.side_by_side import evaluate_command

    return evaluate_command(paths, resolved, output, overrides=overrides, show_all=show_all)


def samples(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    worst: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The N with the lowest score, the lowest first.")
    ] = None,
    best: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The N with the highest score, the highest first.")
    ] = None,
    term: Annotated[
        str | None, typer.Option(help="Reward term that orders them; left out: the reward.")
    ] = None,
    step: Annotated[int | None, typer.Option(help="Step of stage grpo; left out: its last.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A model of the evaluation (base, sft, grpo) instead of a step.")
    ] = None,
) -> int:
    """Print what a run's models have written, with its scores (without --worst or --best: the five lowest)."""
    require_folder(run)
    if best and worst:
        raise ConfigError("give --worst or --best, not both")
    if model is not None and step is not None:
        raise ConfigError("give --step (of stage grpo) or --model (of the evaluation), not both")
    from rl_empathy.observability.samples import evaluated_of, ordered, rollouts_of

    written = [*(rollouts_of(run, step) if model is None else evaluated_of(run, model))]
    shown = ordered(written, term, worst_first=best is None)[: best or worst or 5]
    print("\n".join(map(str, shown)), end="")
    return 0


def curves(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run directory, of a finished or a running run.")
    ],
) -> int:
    """Draw the rewards and losses of a run's stages in the terminal, as the run does at the end of each stage."""
    require_folder(run)
    if not (run / RUN_CONFIG).exists():
        raise ModelError(
            f"{run} is a model folder; give the run directory (with {RUN_CONFIG}) that it comes from"
        )
    from rl_empathy.config.stage_table import stage_of
    from rl_empathy.observability import curves as drawing
    from rl_empathy.observability.metrics import METRICS

    run_file = load_run_file(run / RUN_CONFIG, check_paths=False)
    measuring = {name for name in run_file.run.stages if not stage_of(run_file, name).gives}
    steps = drawing.last_steps(run / METRICS)
    trained = [stage for stage in steps if stage not in measuring]
    if not trained:
        raise ConfigError(f"{run} has no curves: none of its stages has trained a step yet")
    for stage in trained:
        print(f"{stage}: {steps[stage]:,} step(s)")
        print("".join(f"  {line}\n" for line in drawing.curves(run / METRICS, stage)), end="")
    return 0
