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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rl_empathy.config.keys import KeyPath, dotted, section_keys
from rl_empathy.config.problems import refusal, validated
from rl_empathy.config.public_sets import PUBLIC_SETS
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.source import Problem, Source
from rl_empathy.config.yaml_lines import parse, yaml_text

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


def load_run_file(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), *, check_paths: bool = True
) -> RunFile:
    """Read, merge, validate.

    Args:
        path: The run file, YAML.
        overrides: `section.key=value`, the value as YAML; `section.list[0].key` is in an entry of a list. They are
            applied in order after the file: a mapping is merged with what is there, anything else (a list as a
            whole, too) takes its place.
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
        run_file, found = validated(source)
        problems += found
        if run_file is not None and not problems:
            return run_file, source
    raise refusal(problems)


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
