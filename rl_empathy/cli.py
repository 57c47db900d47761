"""The command line: train, scale, evaluate, serve, annotate, config.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 2 the run file or an argument is wrong,
3 the cluster cannot give what the plan needs, 4 a stage failed, 75 stopped and can be resumed, 130
interrupted. Heavy libraries are imported when a command needs them, so that help and --check answer at once.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from rl_empathy.config.loading import difference, dump_run_file, load_run_file, read_run_file
from rl_empathy.config.needs import require_what_stages_need
from rl_empathy.config.reference import reference_text
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.source import Source
from rl_empathy.errors import ConfigError, ModelError
from rl_empathy.startup import exit_code, keep_traceback, prepare_environment, print_plan, require_own_code

RUN_CONFIG = "config.yaml"

app = typer.Typer(
    help="From counselling text to a served, empathetic language model.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RUN_FILE_HELP = (
    "A run file, and settings written section.key=value (rl-empathy config --reference lists them)."
)
RunFileOption = Annotated[
    Path | None, typer.Option("--run-file", help="Run file; left out: the run's own config.yaml.")
]


@app.command(no_args_is_help=True)
def train(
    arguments: Annotated[list[str], typer.Argument(metavar="RUN.yaml|key=value", help=RUN_FILE_HELP)],
    check: Annotated[
        bool, typer.Option("--check", help="Print the resolved run file and the plan; start nothing.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Set what is there of this run aside, and begin anew.")
    ] = False,
    allow_config_change: Annotated[
        bool, typer.Option("--allow-config-change", help="Resume although the configuration differs.")
    ] = False,
) -> int:
    """Run the stages of a run file. The same command again resumes; a finished run prints its result."""
    run_file, source = _read_run_file(arguments)
    require_what_stages_need(run_file)
    require_own_code(run_file)
    if check:
        return print_plan(run_file, source)
    prepare_environment()
    try:
        from rl_empathy.orchestration.run import run

        return run(run_file, fresh=fresh, allow_config_change=allow_config_change)
    except Exception as error:
        keep_traceback(run_file, error)
        raise


@app.command(no_args_is_help=True)
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
    paths, overrides = _split(arguments)
    for path in paths:
        _require_folder(path)
    own = run_file or next((path / RUN_CONFIG for path in paths if (path / RUN_CONFIG).exists()), None)
    if own is None:
        raise ConfigError(
            "a model folder does not say on what to evaluate it; give --run-file RUN.yaml, or a run directory"
        )
    resolved = load_run_file(own, overrides)
    prepare_environment()
    from rl_empathy.orchestration.side_by_side import evaluate_command

    return evaluate_command(paths, resolved, output, overrides=overrides, show_all=show_all)


@app.command(no_args_is_help=True)
def scale(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    rollout_workers: Annotated[
        int | None,
        typer.Option("--rollout-workers", min=1, help="Number to have; left out: the run decides again."),
    ] = None,
) -> int:
    """Change the number of rollout workers of a run in stage grpo, from its next step on."""
    _require_folder(run)
    from rl_empathy.orchestration.scaling import ask_by_hand

    if (run / RUN_CONFIG).exists() and load_run_file(run / RUN_CONFIG, check_paths=False).run.deterministic:
        raise ConfigError(
            f"{run} is deterministic: the number of its rollout workers is part of what it computes"
        )
    ask_by_hand(run, rollout_workers)
    asked = "as many as it needs" if rollout_workers is None else str(rollout_workers)
    print(f"{run} is asked for {asked} rollout workers, from its next step on")
    return 0


@app.command(no_args_is_help=True)
def serve(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|MODEL|key=value", help="A run directory or a model folder, and settings."
        ),
    ],
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on (serve.host).")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on (serve.port).")] = None,
    show_reasoning: Annotated[
        bool | None,
        typer.Option(
            "--show-reasoning/--hide-reasoning", help="Send the reasoning, too (serve.show_reasoning)."
        ),
    ] = None,
    run_file: RunFileOption = None,
) -> int:
    """Serve a run's released model, OpenAI-compatible."""
    paths, overrides = _split(arguments)
    if len(paths) != 1:
        raise ConfigError(f"serve takes one run directory or model folder, got {len(paths)}")
    options = {"host": host, "port": port, "show_reasoning": show_reasoning}
    overrides += [f"serve.{key}={str(value).lower()}" for key, value in options.items() if value is not None]
    model, own = _served(paths[0])
    if run_file is None and own is None:
        raise ConfigError(f"{paths[0]} does not say which schema it writes; give --run-file RUN.yaml")
    resolved = load_run_file(run_file or own or "", overrides, check_paths=False)
    prepare_environment()
    from rl_empathy.serving.app import serve as serve_model

    schema, data, engine = resolved.schema_declaration, resolved.data, resolved.cluster.rollout_workers
    instruction = schema.instruction(data.language) if data.system_prompt is None else data.system_prompt
    return serve_model(
        model,
        resolved.serve,
        schema,
        language=data.language,
        model_name=str(resolved.run.name) if own else model.name,
        system_prompt=instruction,
        temperature=resolved.evaluate.sampling.temperature,
        num_cpus=engine.num_cpus,
        num_gpus=engine.num_gpus,
        address=resolved.cluster.address,
    )


@app.command(no_args_is_help=True)
def annotate(
    input: Annotated[
        str, typer.Argument(help="A file of question-answer rows, or the hub name of a data set.")
    ],
    output: Annotated[Path, typer.Argument(help="Rows with traces, JSON lines.")],
    format: Annotated[str, typer.Option(help="rows, counselchat, smile, psyqa or columns.")] = "rows",
    column: Annotated[
        list[str] | None, typer.Option(help="For format columns: prompt=FIELD, answer=, topic=, id=.")
    ] = None,
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
        on_bad_row=on_bad_row,
        on_risk=on_risk,
    )
    print("\n".join(summary.lines()))
    summary.require_one_accepted()
    return 0


@app.command(no_args_is_help=True)
def config(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="RUN.yaml|key=value", help=RUN_FILE_HELP)
    ] = None,
    reference: Annotated[bool, typer.Option("--reference", help="Print every key there is.")] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Print what differs between two run files, a line a key.")
    ] = False,
) -> int:
    """Print a run file as it resolves, what differs between two, or the reference of all keys."""
    if reference:
        print(reference_text(), end="")
    elif diff:
        print("".join(f"{line}\n" for line in _difference(arguments or [])), end="")
    else:
        print(dump_run_file(_read_run_file(arguments or [])[0]), end="")
    return 0


def main(command: str | None = None) -> NoReturn:
    """Run the program, or one of its commands; ends the process with the exit code."""
    arguments = [*([] if command is None else [command]), *sys.argv[1:]]
    sys.exit(exit_code(lambda: app(arguments, prog_name="rl-empathy", standalone_mode=False)))


def _split(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Paths and overrides, in any order; a path with = in its name is one if it exists."""
    # os.path, since Path.exists raises when a long setting is no possible name of a file
    overrides = [text for text in arguments if re.match(r"[^/=]*=", text) and not os.path.exists(text)]
    return [Path(text) for text in arguments if text not in overrides], overrides


def _difference(arguments: Sequence[str]) -> list[str]:
    paths, overrides = _split(arguments)
    if len(paths) != 2:
        given = ", ".join(map(str, paths)) or "none"
        raise ConfigError(f"--diff wants two run files, got {given}")
    return difference(*(load_run_file(path, overrides, check_paths=False) for path in paths))


def _read_run_file(arguments: Sequence[str]) -> tuple[RunFile, Source]:
    paths, overrides = _split(arguments)
    if len(paths) != 1:
        given = ", ".join(map(str, paths)) or "none"
        raise ConfigError(f"give one run file (RUN.yaml), got {given}; a setting is section.key=value")
    return read_run_file(paths[0], overrides)


def _require_folder(path: Path) -> None:
    if not path.is_dir():
        where = "" if path.is_absolute() else f" (looked from {Path.cwd()})"
        raise ModelError(f"{path} is no folder{where}; give a run directory or a model folder")
    if not (path / RUN_CONFIG).exists() and not (path / "config.json").exists():
        raise ModelError(f"{path} is no run directory (no {RUN_CONFIG}) and no model folder (no config.json)")


def _served(path: Path) -> tuple[Path, Path | None]:
    """The model folder, and the configuration of the run that made it, where it is known."""
    _require_folder(path)
    if (path / RUN_CONFIG).exists():
        if not (path / "model").is_dir():
            raise ModelError(f"run {path} has released no model yet; finish it with rl-empathy train")
        return path / "model", path / RUN_CONFIG
    own = path.resolve().parent / RUN_CONFIG
    return path, own if own.exists() else None


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


if __name__ == "__main__":
    main()
