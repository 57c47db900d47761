"""Where counselling text comes from.

A source is the bundled set, a local file (.jsonl, .json, .csv, .parquet), a folder of dialogues or a hub name
such as owner/name.
"""

import difflib
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rl_empathy.config.sections import ColumnsConfig
from rl_empathy.data.records import (
    Record,
    Records,
    csv_records,
    hub_records,
    json_line_records,
    json_list_records,
    parquet_records,
)
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
    """A file, or a folder with one file a dialogue; None: `name` is a hub name."""
    language: str = "en"
    columns: ColumnsConfig | None = None


def locate(
    name: str | None,
    *,
    language: str,
    columns: ColumnsConfig | None = None,
    hub: bool = True,
    folder: bool = False,
) -> Source:
    """Find the file or hub data set that `name` means; None is the bundled set of `language`.

    Args:
        name: A path, or the name of a hub's data set.
        language: The text's language.
        columns: The column mapping of format columns.
        hub: The format can be that of a hub's data set.
        folder: The format can be that of a folder with one file a dialogue.

    Raises:
        DataError: There is no such file, and the name is none of a hub's; names the file nearest to it.
    """
    path = BUNDLED / f"{language}.jsonl" if name is None else Path(name).expanduser()
    # os.path, since Path.is_file raises when the name is too long for a file
    if os.path.isfile(path) or (folder and os.path.isdir(path) and any(path.glob("*.json"))):
        return Source(name=str(path), path=path, language=language, columns=columns)
    if os.path.isdir(path):
        raise DataError(f"data: {path.absolute()} is a folder; name a file in it: {_some_files(path)}")
    assert name is not None, f"the bundled set of {language} is missing from the installed package"
    if hub and _looks_like_hub(name):
        return Source(name=name, path=None, language=language, columns=columns)
    raise DataError(_missing(path.absolute()))


def records(source: Source) -> Records:
    """Decode the source's objects in order; what cannot be decoded is given as an error in its place.

    Raises:
        DataError: The rest of the source cannot be read.
    """
    if source.path is None:
        return hub_records(source.name)
    suffix = source.path.suffix.lower()
    if suffix == ".csv":
        return csv_records(source.path)
    if suffix == ".parquet":
        return parquet_records(source.path)
    with source.path.open("rb") as file:
        first = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    return json_list_records(source.path) if first == b"[" else json_line_records(source.path)


def dialogue_records(source: Source) -> Records:
    """Records of a source whose files may each be the list of one dialogue's turns.

    Such a file, and each file of a folder, is one record: {"id": the file's name, "turns": the list}.
    """
    assert source.path is not None, "formats of dialogues are files"
    if source.path.is_dir():
        for path in sorted(source.path.glob("*.json")):
            try:
                yield _dialogue(path, list(records(replace(source, name=str(path), path=path))))
            except DataError as error:
                yield error
        return
    items = records(source)
    first = next(items, None)
    if isinstance(first, Record) and {"role", "content"} <= first.data.keys():
        yield _dialogue(source.path, [first, *items])
    elif first is not None:
        yield from itertools.chain([first], items)


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
