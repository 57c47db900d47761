"""Run file and overrides in, one frozen `RunFile` out; everything that is wrong is reported at once.

    2 problem(s) in the run file
      run.yaml:3  grpo.lerning_rate: unknown key; did you mean `grpo.optimizer.learning_rate`?
      run.yaml:4  grpo.group_size: Input should be greater than or equal to 2, got 1

A run file may begin with `extends: base.yaml` (from its own folder on): what it does not say is as there, but the name
of the run. Relative paths in a run file (data.train, model.path, run.directory, the encoders) start at the directory
from which the command is run, not at the run file; `~` is the home folder.
"""

import json
import os
import re
import reprlib
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rl_empathy.config.keys import KeyPath, dotted, dotted_keys, keys_at, kinds_at, section_keys
from rl_empathy.config.public_sets import PUBLIC_SETS
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.source import Problem, Source
from rl_empathy.config.yaml_lines import parse, yaml_text
from rl_empathy.errors import ConfigError

_PATH_KEYS: tuple[tuple[str, str], ...] = (
    ("run", "directory"),
    ("data", "train"),
    ("data", "held_out"),
    ("model", "path"),
    ("model", "chat_template"),
    ("reward_modeling", "encoder"),
    ("evaluate", "similarity_encoder"),
)
_DATA_SUFFIXES = {".jsonl", ".json", ".csv", ".tsv", ".parquet"}
_PLAIN_MESSAGES = {
    "model_type": "Input should be a mapping of keys",
    "dict_type": "Input should be a mapping of keys",
    "tuple_type": "Input should be a list",
    "missing": "this key is needed",
}


def load_run_file(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), *, check_paths: bool = True
) -> RunFile:
    """Read, merge, validate.

    Args:
        path: The run file, YAML.
        overrides: `section.key=value`, the value as YAML. They are applied in order after the file: a mapping
            is merged with what is there, anything else (a list as a whole, too) takes its place.
        check_paths: Also complain of files that do not exist; False for reading the record of a run.

    Raises:
        ConfigError: With every problem, its file and line (or its override), and the nearest valid key.
    """
    return read_run_file(path, overrides, check_paths=check_paths)[0]


def read_run_file(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), *, check_paths: bool = True
) -> tuple[RunFile, Source]:
    """As `load_run_file`, with the source that knows where each value comes from."""
    source = Source(path, overrides)
    problems = list(source.problems)
    if source.data is not None:
        _fill_empty_sections(source.data, RunFile)
        _fill_name(source.data, Path(path))
        _fill_import_from(source.data, source.folders)
        _expand_home(source.data)
        if check_paths:
            problems += _missing_files(source)
        try:
            run_file = RunFile.model_validate(source.data, by_alias=True, by_name=False)
        except ValidationError as error:
            problems += _validation_problems(error, source)
        else:
            if not problems:
                return run_file, source
    lines = [f"{len(problems)} problem(s) in the run file", *(f"  {problem}" for problem in sorted(problems))]
    raise ConfigError("\n".join(lines))


def dump_run_file(run_file: RunFile) -> str:
    """The resolved run file as YAML, every key in declaration order; it loads again to an equal object."""
    return yaml_text(_plain(run_file))


def annotated_run_file(run_file: RunFile, source: Source) -> str:
    """As `dump_run_file`, with the place that gave it beside every value that is no default."""
    text = yaml_text(_plain(run_file), width=None)
    lines = text.splitlines(keepends=True)
    document = parse(text)
    for path, number in document.lines.items():
        value = document.value
        for key in path:
            value = value[key]
        if isinstance(value, dict | list) or not (origin := source.gave(path)):
            continue
        line = lines[number - 1]
        if isinstance(value, str) and "\n" in value:  # it takes several lines
            lines[number - 1] = f"{' ' * (len(line) - len(line.lstrip()))}# {origin.place}\n{line}"
        else:
            lines[number - 1] = f"{line.rstrip()}  # {origin.place}\n"
    return "".join(lines)


def difference(old: RunFile, new: RunFile) -> list[str]:
    """What changed, one line a key: `grpo.num_steps: 40 -> 60`."""
    return list(_differences(_plain(old), _plain(new), ()))


def absolute(path: str) -> str:
    """The absolute path of a local file, since the processes of a run have different working directories.

    Anything else, such as a hub id, comes back as it is.
    """
    return os.path.abspath(path) if os.path.exists(path) else path


def _plain(run_file: RunFile) -> dict[str, Any]:
    return run_file.model_dump(mode="json", by_alias=True)


def _differences(old: Any, new: Any, path: KeyPath) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        for key in old:
            yield from _differences(old[key], new[key], (*path, key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and _holds_mappings(old):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(*pair, (*path, number))
    elif old != new:
        before, after = (json.dumps(value, ensure_ascii=False) for value in (old, new))
        yield f"{dotted(path)}: {before} -> {after}"


def _holds_mappings(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def _fill_empty_sections(data: dict[str, Any], section: type[BaseModel]) -> None:
    """A section without keys (`grpo:` and nothing below) means its defaults."""
    for key, field in section_keys(section).items():
        if key in data and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            data[key] = {} if data[key] is None else data[key]
            if isinstance(data[key], dict):
                _fill_empty_sections(data[key], field.annotation)


def _fill_name(data: dict[str, Any], path: Path) -> None:
    run = data.setdefault("run", {})
    if isinstance(run, dict) and run.get("name") is None:
        run["name"] = re.sub(r"[^\w.\-]+", "_", path.stem).strip("_.") or "run"


def _fill_import_from(data: dict[str, Any], folders: Sequence[str]) -> None:
    """The user's functions may stand beside the run file, or one that it extends; the record says where that was."""
    run = data.setdefault("run", {})
    if isinstance(run, dict) and run.get("import_from") is None:
        run["import_from"] = list(dict.fromkeys(folders))


def _path_values(data: dict[str, Any]) -> Iterator[tuple[tuple[str, str], str]]:
    for section, key in _PATH_KEYS:
        inner = data.get(section)
        if isinstance(inner, dict) and isinstance(value := inner.get(key), str):
            yield (section, key), value


def _expand_home(data: dict[str, Any]) -> None:
    for (section, key), value in _path_values(data):
        data[section][key] = os.path.expanduser(value)


def _missing_files(source: Source) -> Iterator[Problem]:
    for path, value in _path_values(source.data or {}):
        is_local = value.startswith((".", "/", "~"))
        if path[0] == "data":
            is_local = is_local or Path(value).suffix in _DATA_SUFFIXES
        if is_local and path != ("run", "directory") and not os.path.exists(value):
            where = "" if os.path.isabs(value) else f" (looked from {Path.cwd()})"
            fetch = _how_to_fetch(source.data or {}) if path == ("data", "train") else ""
            yield Problem(source.origin(path), dotted(path), f"there is no {value!r}{where}{fetch}")


def _how_to_fetch(data: dict[str, Any]) -> str:
    """Of data that a run file names as a public set: where that is."""
    name = data["data"].get("format")
    where = PUBLIC_SETS.get(name) if isinstance(name, str) else None
    return f"; fetch {name} from {where} and set data.train=PATH" if where else ""


def _validation_problems(error: ValidationError, source: Source) -> list[Problem]:
    """Pydantic's errors, one for each place: the branches of a choice of types are told as one."""
    by_place: dict[KeyPath, list[tuple[KeyPath, ErrorDetails]]] = {}
    for details in error.errors(include_url=False):
        if details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]:
            continue  # counts the valid entries only; what is wrong with the others is told anyway
        path, choice = _data_path(details, source.data)
        by_place.setdefault(choice or path, []).append((path, details))
    problems = []
    for place, found in by_place.items():
        telling = [
            (path, details)
            for path, details in found
            if len(path) > len(place) or not details["type"].endswith(("_type", "_parsing", "literal_error"))
        ]
        if telling:
            problems += [_problem(path, [details], source) for path, details in telling]
        else:
            problems.append(_problem(place, [details for _, details in found], source))
    return problems


def _data_path(details: ErrorDetails, data: Any) -> tuple[KeyPath, KeyPath | None]:
    """Where in the data an error is, without pydantic's names of union branches; and where the union is."""
    path: KeyPath = ()
    choice: KeyPath | None = None
    of_a_kind: KeyPath | None = None
    for depth, key in enumerate(details["loc"], start=1):
        if isinstance(data, dict) and path[-1:] != (key,) and data.get("kind") == key and of_a_kind != path:
            of_a_kind = path  # this is the kind, by which pydantic chose; a key of the same name may follow
            continue
        if (isinstance(data, dict) and key in data) or (isinstance(data, list) and isinstance(key, int)):
            data = data[key]  # type: ignore[index]
        elif not (depth == len(details["loc"]) and details["type"] == "missing"):
            choice = path if choice is None else choice
            continue
        path = (*path, key)
    return path, choice


def _problem(path: KeyPath, choices: list[ErrorDetails], source: Source) -> Problem:
    details = choices[0]
    if details["type"] == "extra_forbidden":
        text = f"unknown key; {_suggestion(path)}"
    elif details["type"] == "missing":
        text = _PLAIN_MESSAGES["missing"]
    elif details["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kinds = kinds_at(path)
        wrong = details.get("ctx", {}).get("tag")
        near = get_close_matches(str(wrong), kinds, n=1, cutoff=0.6)
        said = "kind: this key is needed" if wrong is None else f"kind: there is no {wrong}"
        text = f"{said}; " + (f"did you mean {near[0]}?" if near else f"the kinds are {', '.join(kinds)}")
    elif details["type"] == "value_error":
        text = details["msg"].removeprefix("Value error, ")
    else:
        first, *others = dict.fromkeys(_PLAIN_MESSAGES.get(each["type"], each["msg"]) for each in choices)
        text = " or ".join([first, *(message.removeprefix("Input should be ") for message in others)])
        text += f", got {_shortened.repr(details['input'])}"
    return Problem(source.origin(path), dotted(path) or "(top level)", text)


_shortened = reprlib.Repr()
_shortened.maxlevel, _shortened.maxstring, _shortened.maxother = 3, 60, 60


def _suggestion(path: KeyPath) -> str:
    """The nearest valid key of the same section, else of any section, else all keys of the section."""
    wrong, around = str(path[-1]), path[:-1]
    here = keys_at(around)
    if near := get_close_matches(wrong, here, n=1, cutoff=0.75):
        return f"did you mean `{near[0]}`?"
    elsewhere = [key for key in dotted_keys() if key.rpartition(".")[2] == wrong]
    if elsewhere:
        return f"did you mean {_any_of(_nearest(elsewhere, around))}?"
    if near := get_close_matches(wrong, here, n=1, cutoff=0.6):
        return f"did you mean `{near[0]}`?"
    leaves = {key.rpartition(".")[2] for key in dotted_keys()}
    if near := get_close_matches(wrong, leaves, n=1, cutoff=0.8):
        elsewhere = [key for key in dotted_keys() if key.rpartition(".")[2] == near[0]]
        return f"did you mean {_any_of(_nearest(elsewhere, around))}?"
    return f"the keys here are {', '.join(here)}"


def _nearest(keys: list[str], around: KeyPath) -> list[str]:
    """Those of the same section where there are any, at most three."""
    own = [key for key in keys if around and key.startswith(f"{around[0]}.")]
    return (own or keys)[:3]


def _any_of(keys: list[str]) -> str:
    quoted = [f"`{key}`" for key in keys]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
