"""The command serve."""

from pathlib import Path
from typing import Annotated

import typer

from rl_empathy.cli.arguments import RUN_CONFIG, RunFileOption, require_folder, split
from rl_empathy.config.loading import load_run_file
from rl_empathy.errors import ConfigError, ModelError
from rl_empathy.startup import prepare_environment


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
    paths, overrides = split(arguments)
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


def _served(path: Path) -> tuple[Path, Path | None]:
    """The model folder, and the configuration of the run that made it, where it is known."""
    require_folder(path)
    if (path / RUN_CONFIG).exists():
        if not (path / "model").is_dir():
            raise ModelError(f"run {path} has released no model yet; finish it with rl-empathy train")
        return path / "model", path / RUN_CONFIG
    own = path.resolve().parent / RUN_CONFIG
    return path, own if own.exists() else None
