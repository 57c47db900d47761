"""Where counselling text comes from, and its records with file and line.

A source is the bundled set, a local file (.jsonl, .json, .csv, .parquet) or a hub name such as owner/name.
"""

import csv
import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from rl_empathy.config.sections import ColumnsConfig
from rl_empathy.data.text import shown
from rl_empathy.errors import DataError

BUNDLED = Path(__file__).parent / "bundled"
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file or a hub name, and what its readers must know of it."""

    name: str
    """As error texts name it."""
    path: Path | None
    """None: `name` is a hub name."""
    language: str = "en"
    columns: ColumnsConfig | None = None


class Record(NamedTuple):
    """One decoded object of a source."""

    where: str
    """File and line, or hub name and row."""
    data: dict[str, Any]


def locate(
    name: str | None, *, language: str, columns: ColumnsConfig | None = None, hub: bool = True
) -> Source:
    """Find the file or hub data set that `name` means; None is the bundled set of `language`.

    Raises:
        DataError: There is no such file, and the name is none of a hub's; names the file nearest to it.
    """
    path = BUNDLED / f"{language}.jsonl" if name is None else Path(name).expanduser()
    if path.is_file():
        return Source(name=str(path), path=path, language=language, columns=columns)
    if path.is_dir():
        raise DataError(f"data: {path.absolute()} is a folder; name a file in it: {_some_files(path)}")
    assert name is not None, f"the bundled set of {language} is missing from the installed package"
    if hub and _looks_like_hub(name):
        return Source(name=name, path=None, language=language, columns=columns)
    raise DataError(_missing(path.absolute()))


def records(source: Source) -> Iterator[Record | DataError]:
    """Decode the source's objects in order; what cannot be decoded is given as an error in its place."""
    if source.path is None:
        return _hub_records(source.name)
    suffix = source.path.suffix.lower()
    if suffix == ".csv":
        return _csv_records(source.path)
    if suffix == ".parquet":
        return _dataset_records(source.name, "parquet", data_files=str(source.path))
    with source.path.open("rb") as file:
        first = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    return _json_list_records(source.path) if first == b"[" else _json_line_records(source.path)


def _json_line_records(path: Path) -> Iterator[Record | DataError]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                data = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                yield DataError(
                    f"{where}: not UTF-8 (byte {error.start} of the line); save the file as UTF-8"
                )
            except json.JSONDecodeError as error:
                yield DataError(
                    f"{where}: not JSON ({error.msg}, column {error.colno}), got {shown(_lossy(line))}"
                )
            else:
                yield _record(where, data)


def _json_list_records(path: Path) -> Iterator[Record | DataError]:
    """Walk the list item by item, so that a wrong one can be named by its line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        yield DataError(f"{path}: not UTF-8 (byte {error.start}); save the file as UTF-8")
        return
    decoder, skip = json.JSONDecoder(), re.compile(r"[\s,\[]*")
    position, line, counted = 0, 1, 0
    while True:
        between = skip.match(text, position)
        assert between is not None
        position = between.end()
        line, counted = line + text.count("\n", counted, position), position
        if text.startswith("]", position):
            return
        try:
            data, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            yield DataError(
                f"{path}:{error.lineno}: not JSON ({error.msg}, column {error.colno}); the rest is unread"
            )
            return
        yield _record(f"{path}:{line}", data)


def _csv_records(path: Path) -> Iterator[Record | DataError]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        line = 2
        try:
            for data in reader:
                where, line = f"{path}:{line}", reader.line_num + 1
                if None in data or None in data.values():
                    given = sum(value is not None for key, value in data.items() if key is not None)
                    given += len(data.get(None) or [])  # type: ignore[call-overload]
                    yield DataError(f"{where}: wanted {len(reader.fieldnames or [])} fields, got {given}")
                else:
                    yield Record(where, data)
        except UnicodeDecodeError as error:
            yield DataError(f"{path}:{line}: not UTF-8 (byte {error.start}); save the file as UTF-8")
        except csv.Error as error:
            yield DataError(f"{path}:{line}: not CSV ({error})")


def _hub_records(name: str) -> Iterator[Record | DataError]:
    return _dataset_records(name, name)


def _dataset_records(name: str, path: str, **arguments: str) -> Iterator[Record | DataError]:
    # Slow to import, and wanted for hub names and parquet files only.
    import datasets  # type: ignore[import-untyped]

    try:
        rows = datasets.load_dataset(path, split="train", streaming="data_files" in arguments, **arguments)
        for number, data in enumerate(rows, start=1):
            yield Record(f"{name}: row {number}", dict(data))
    except (OSError, ValueError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"data: {name} could not be read by `datasets`: {type(error).__name__}: {shown(str(error), 200)}"
        ) from error


def _record(where: str, data: object) -> Record | DataError:
    if not isinstance(data, dict):
        return DataError(f"{where}: row: must be an object, got {shown(data)}")
    return Record(where, data)


def _lossy(line: bytes) -> str:
    return line.decode("utf-8", errors="replace")


def _looks_like_hub(name: str) -> bool:
    is_file_name = Path(name).suffix.lower() in _SUFFIXES
    return bool(_HUB_NAME.fullmatch(name)) and not is_file_name and not Path(name).parent.is_dir()


def _missing(path: Path) -> str:
    folder = next(parent for parent in path.parents if parent.is_dir())
    if folder != path.parent:
        return (
            f"data: there is no file {path}: the folder {folder} has no {path.relative_to(folder).parts[0]}"
        )
    near = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], n=1, cutoff=0.5)
    hint = f"did you mean {folder / near[0]}?" if near else f"the folder holds {_some_files(folder)}"
    return f"data: there is no file {path}; {hint}"


def _some_files(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "no data file"
