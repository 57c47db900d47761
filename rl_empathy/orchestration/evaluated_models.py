"""Which models an evaluation compares: where they are, what they are called, and how each is asked.

runs/x               every model that the run has: x/base, x/sft, x/grpo (base, sft, grpo where x stands alone)
runs/x/grpo/model    one model of a run: x/grpo
models/other         any model folder: other
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rl_empathy.config.loading import load_run_file
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.sections import Artifact, ModelConfig
from rl_empathy.config.stage_table import stages_that_give
from rl_empathy.engines.model_sources import local_or_hub
from rl_empathy.errors import ConfigError, ModelError


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """One model of an evaluation, and the settings under which it is asked."""

    name: str
    folder: Path
    run_file: RunFile
    """The evaluation's, but model, schema and data.system_prompt as in the run that made the model."""
    asked_with: str
    """The system message in words, for the reader of the table."""
    run: Path | None = None
    """Directory of another run that trained it; None: the evaluation's own, or none of ours."""
    is_foreign: bool = False
    """It lies in no run of ours, so that nothing has fitted its chat template yet."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    folder: Path
    run: Path | None
    """Directory of the run that made the model; None: a folder outside a run."""
    label: tuple[str, ...]
    """Parts of the path that can name it."""
    least: int
    """How many of the last parts its name has at least."""

    @property
    def is_trained(self) -> bool:
        """Whether stages of a run of ours have taught it the schema."""
        if self.run is None or self.folder == _base_of(self.run):
            return False
        return any(folder.is_dir() for folder in _made(self.run, "policy").values())


def models_of_run(run_file: RunFile, folders: Mapping[str, Path]) -> list[EvaluatedModel]:
    """The models of a run that evaluates itself, by stage."""
    return [
        _asked(run_file, run_file, name=stage, folder=folder, is_trained=stage != "base")
        for stage, folder in folders.items()
    ]


def find_models(
    paths: Sequence[Path], run_file: RunFile, overrides: Sequence[str] = ()
) -> list[EvaluatedModel]:
    """Find the models of run directories and model folders, each with a name of its own.

    Args:
        paths: Run directories and model folders.
        run_file: The evaluation's.
        overrides: section.key=value, which hold for every model.

    Raises:
        ConfigError: Nothing is given, or one model twice.
        ModelError: A run has no model yet.
    """
    if not paths:
        raise ConfigError("evaluate wants a run directory or a model folder")
    places = [place for path in paths for place in _places(_plain(path))]
    twice = [str(folder) for folder, count in Counter(place.folder for place in places).items() if count > 1]
    if twice:
        raise ConfigError(f"the model {twice[0]} is given twice; give each model once")
    stands_alone = len(paths) == 1 and len(places) > 1
    names = [place.label[-1] for place in places] if stands_alone else _names(places)
    models = []
    for place, name in zip(places, names, strict=True):
        own = run_file
        if place.run is not None:
            own = load_run_file(place.run / "config.yaml", overrides, check_paths=False)
        else:
            own = run_file.model_copy(update={"model": _foreign(run_file.model, place.folder, overrides)})
        model = _asked(run_file, own, name=name, folder=place.folder, is_trained=place.is_trained)
        run = place.run if place.is_trained else None
        models.append(replace(model, run=run, is_foreign=place.run is None))
    return models


def reward_models_of(paths: Sequence[Path]) -> dict[str, Path]:
    """The reward models of the first path that is a run directory with some, or lies in it, by name."""
    for run in filter(None, (_run_of(_plain(path)) for path in paths)):
        if found := {name: folder for name, folder in _made(run, "reward_model").items() if folder.is_dir()}:
            return found
    return {}


def _foreign(model: ModelConfig, folder: Path, overrides: Sequence[str]) -> ModelConfig:
    """Section model for a folder of no run of ours: the template of the evaluation's own run is not meant for it."""
    given = {text.split("=")[0] for text in overrides}
    kept = {
        key: getattr(model, key)
        for key in ("chat_template", "chat_template_kwargs")
        if any(f"{one}.".startswith(f"model.{key}.") for one in given)
    }
    return ModelConfig(path=str(folder), dtype=model.dtype, **kept)


def _plain(path: Path) -> Path:
    """The absolute path without "..", by which a model is named."""
    return Path(os.path.abspath(path.expanduser()))


def _asked(run_file: RunFile, own: RunFile, *, name: str, folder: Path, is_trained: bool) -> EvaluatedModel:
    """A model with its own schema and instruction.

    A trained model is asked as it was trained. Any other has never seen the schema: without an instruction it could
    not know the form, so it is asked with the schema's own even where data.system_prompt is empty.
    """
    schema, language = own.schema_declaration, own.data.language
    system_prompt = own.data.system_prompt
    if system_prompt is None or (system_prompt == "" and not is_trained):
        system_prompt = schema.instruction(language)
        asked_with = f"the instruction of its schema ({', '.join(schema.span_names)}; {language})"
    else:
        asked_with = (
            "data.system_prompt of its run file" if system_prompt else "no instruction, as it was trained"
        )
    asked = run_file.model_copy(
        update={
            "model": own.model,
            "output_schema": own.output_schema,
            "data": run_file.data.model_copy(update={"system_prompt": system_prompt}),
        }
    )
    return EvaluatedModel(name=name, folder=folder, run_file=asked, asked_with=asked_with)


def _places(path: Path) -> Iterator[_Place]:
    run = _run_of(path)
    if run is None:
        yield _Place(folder=path, run=None, label=path.parts[1:], least=1)
        return
    folders = {path: path.relative_to(run).parts} if path != run else _folders_of(run)
    for folder, within in folders.items():
        shown = tuple(part for part in within if part != "model")
        yield _Place(folder=folder, run=run, label=(*run.parts[1:], *shown), least=1 + len(shown))


def _folders_of(run: Path) -> Mapping[Path, tuple[str, ...]]:
    folders = {"base": _base_of(run), **_made(run, "policy")}
    found = {
        folder: (name,) for name, folder in folders.items() if folder and (folder / "config.json").exists()
    }
    if not found:
        raise ModelError(f"the run {run} has no model yet; its stages sft and grpo leave one")
    return found


def _made(run: Path, artifact: Artifact) -> dict[str, Path]:
    """Where the stages of a run leave what they make, by stage."""
    run_file = load_run_file(run / "config.yaml", check_paths=False)
    return {stage: run / stage / "model" for stage in stages_that_give(run_file, artifact)}


def _base_of(run: Path) -> Path | None:
    """The folder of the model that a run started from, where it is at hand."""
    if (run / "base" / "config.json").exists():
        return run / "base"
    model = load_run_file(run / "config.yaml", check_paths=False).model
    local = Path(str(model.path)).expanduser().absolute()
    if local.is_dir() or model.revision is None:
        return local if local.is_dir() else None
    try:
        return local_or_hub(str(model.path), model.revision)
    except ModelError:
        return None


def _run_of(path: Path) -> Path | None:
    """The run directory that a path is, or lies in; a model folder may have a config.yaml of somebody else's."""
    if (path / "config.yaml").is_file() and not (path / "config.json").exists():
        return path
    around = (one for one in path.parents[:3] if (one / "config.yaml").is_file() and (one / "logs").is_dir())
    return next(around, None)


def _names(places: Sequence[_Place]) -> list[str]:
    """The shortest ends of the paths that tell the models apart."""
    shown = [place.least for place in places]
    while True:
        names = ["/".join(place.label[-n:]) for place, n in zip(places, shown, strict=True)]
        again = [
            i for i, name in enumerate(names) if names.count(name) > 1 and shown[i] < len(places[i].label)
        ]
        if not again:
            return names
        for i in again:
            shown[i] += 1
