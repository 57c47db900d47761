"""Where counselling text comes from.

A source is the bundled set, a local file (.jsonl, .json, .csv, .tsv, .parquet), a folder of such files or a hub name
such as owner/name.
"""

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rl_empathy.config.sections import ColumnsConfig
from rl_empathy.data.json_records import json_line_records, json_list_records
from rl_empathy.data.records import (
    UTF_8,
    Record,
    Records,
    csv_records,
    hub_records,
    parquet_records,
)
from rl_empathy.errors import DataError

BUNDLED = Path(__file__).parent / "bundled"
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file or a hub name, and what its readers must know of it."""

    name: str
    """As error texts name it."""
    path: Path | None
    """A file, or a folder of files; None: `name` is a hub name."""
    language: str = "en"
    columns: ColumnsConfig | None = None
    encoding: str = UTF_8
    delimiter: str | None = None
    """Between the columns of a CSV file; None: a comma, or a tab in a file .tsv."""
    replies: Literal["last", "every"] = "last"
    """Which replies of a dialogue are the references of rows."""

    @property
    def files(self) -> list[Path]:
        """The file, or those of the folder, by name; none of a hub's data set."""
        if self.path is None or self.path.is_file():
            return [self.path] if self.path else []
        return sorted(path for path in self.path.iterdir() if path.suffix.lower() in _SUFFIXES)


def locate(name: str | None, *, hub: bool = True, **reading: Any) -> Source:
    """Find the file, folder or hub data set that `name` means; None is the bundled set of a language.

    Args:
        name: A path, or the name of a hub's data set.
        hub: The format can be that of a hub's data set.
        **reading: What the readers must know: fields of `Source`.

    Raises:
        DataError: There is no such file, and the name is none of a hub's; names the file nearest to it.
    """
    language = reading.get("language", "en")
    path = BUNDLED / f"{language}.jsonl" if name is None else Path(name).expanduser()
    # os.path, since Path.is_file raises when the name is too long for a file
    if os.path.exists(path):
        source = Source(name=str(path), path=path, **reading)
        if not source.files:
            raise DataError(
                f"data: {path.absolute()} is a folder without a data file ({', '.join(_SUFFIXES)})"
            )
        return source
    assert name is not None, f"the bundled set of {language} is missing from the installed package"
    if hub and _looks_like_hub(name):
        return Source(name=name, path=None, **reading)
    raise DataError(_missing(path.absolute()))


def records(source: Source) -> Records:
    """Decode the source's objects in order; what cannot be decoded is given as an error in its place.

    Raises:
        DataError: The rest of the source cannot be read.
    """
    if source.path is None:
        yield from hub_records(source.name)
    for path in source.files:
        for item in _file_records(source, path):
            if isinstance(item, Record) and path != source.path:
                item = item._replace(place=f"{path.stem}-{item.number}")
            yield item


def _file_records(source: Source, path: Path) -> Records:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        delimiter = source.delimiter or ("\t" if suffix == ".tsv" else ",")
        return csv_records(path, encoding=source.encoding, delimiter=delimiter)
    if suffix == ".parquet":
        return parquet_records(path)
    with path.open(encoding=source.encoding, errors="surrogateescape") as file:
        first = file.read(64).lstrip()[:1]
    read = json_list_records if first == "[" else json_line_records
    return read(path, encoding=source.encoding)


def dialogue_records(source: Source) -> Records:
    """Records of a source whose files may each be the list of one dialogue's turns.

    Such a file, and each JSON file of a folder, is one record: {"id": the file's name, "turns": the list}.
    """
    for path in source.files:
        try:
            items = list(_file_records(source, path))
        except DataError as error:
            if path == source.path:
                raise
            yield error  # of this dialogue; the next is another file
            continue
        first = items[0] if items else None
        is_dialogue = isinstance(first, Record) and {"role", "content"} <= first.data.keys()
        if is_dialogue or path != source.path:
            yield _dialogue(path, items)
        else:
            yield from items


def _dialogue(path: Path, items: Sequence[Record | DataError]) -> Record | DataError:
    """The turns of a file as one record; one turn that cannot be read is the error of the whole dialogue."""
    wrong = next((item for item in items if isinstance(item, DataError)), None)
    turns = [item.data for item in items if isinstance(item, Record)]
    return wrong or Record(str(path), {"id": path.stem, "turns": turns})


def _looks_like_hub(name: str) -> bool:
    is_file_name = Path(name).suffix.lower() in _SUFFIXES
    return bool(_HUB_NAME.fullmatch(name)) and not is_file_name and not Path(name).parent.is_dir()


def _missing(path: Path) -> str:
    folder = next(parent for parent in path.parents if os.path.isdir(parent))
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
