"""The records of a file, each with its place in the file.

A record that cannot be read is given as a DataError in its place, and the reading goes on with the next record.
Where nobody can say where the next record begins (a quote or a bracket that never closes), the reading ends: a
DataError is raised that says how much of the file is unread, whatever `data.on_bad_row` is.
"""

import csv
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from rl_empathy.errors import DataError
from rl_empathy.observability.shown import shown, unwritable

UTF_8 = "utf-8-sig"
"""A mark at the beginning of a file is no text."""
MAX_DEPTH = 100
"""Levels of lists and objects in one record."""
_NOT_DECODED = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of a byte that is not UTF-8


class Record(NamedTuple):
    """One decoded object of a source."""

    where: str
    """File and line, or hub name and row."""
    data: dict[str, Any]
    place: str = ""
    """Its number in the source, where `where` does not end with it; with the file, where the source has several."""

    @property
    def number(self) -> str:
        """What tells it from the other records of its source."""
        return self.place or self.where.rpartition(":")[2].removeprefix(" row ")


Records = Iterator[Record | DataError]


def split_line_records(path: Path, *, encoding: str = UTF_8) -> Records:
    """The lines of a table that is not quite CSV: every comma parts two fields, and surplus ones have no name.

    Raises:
        DataError: The header has a column twice.
    """
    with path.open(encoding=encoding, errors="surrogateescape", newline="\n") as file:
        header = _distinct(file.readline().strip().split(","), f"{path}:1", encoding)
        for number, line in enumerate(file, start=2):
            fields = line.rstrip("\r\n").split(",")
            if line.strip():
                yield _csv_record(f"{path}:{number}", header, fields[: len(header)], encoding)


def csv_records(path: Path, *, encoding: str = UTF_8, delimiter: str = ",") -> Records:
    """The rows of a CSV file by the names in its header, each with the line on which it begins.

    Raises:
        DataError: The header is wrong, or a quote is.
    """
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True, delimiter=delimiter)
        header: list[str] = []
        num_rows = 0
        while True:
            first = reader.line_num + 1
            try:
                fields = next(reader, None)
                # A quote that is left open takes whole rows into its field, up to the next quote of the file.
                if fields and header and len(fields) != len(header) and reader.line_num > first:
                    raise csv.Error(
                        f"{len(fields)} fields up to line {reader.line_num}, wanted {len(header)}"
                    )
            except csv.Error as error:
                last = reader.line_num + sum(1 for _ in file)
                raise DataError(
                    f"{path}:{first}: not CSV ({error}): a quote in this row closes nowhere, or at the wrong place; "
                    f"the lines {first} to {last} are unread, after {num_rows} rows; mend the quote"
                ) from None
            if fields is None:
                return
            if fields and header:
                num_rows += 1
                yield _csv_record(f"{path}:{first}", header, fields, encoding)
            elif fields:
                header = _distinct(fields, f"{path}:{first}", encoding)
                _require_columns(header, delimiter, f"{path}:{first}")


def parquet_records(path: Path) -> Records:
    """The rows of a parquet file.

    Raises:
        DataError: The file is no parquet file, or is damaged.
    """
    # Slow to import, and wanted for parquet files only.
    import pyarrow
    import pyarrow.parquet

    number, total = 0, "all"
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            total = str(file.metadata.num_rows)
            _distinct(file.schema_arrow.names, str(path))
            for batch in file.iter_batches(batch_size=1000):
                for row in _batch_rows(batch):
                    number += 1
                    where = f"{path}: row {number}"
                    yield checked(where, row) if isinstance(row, dict) else DataError(f"{where}: {row}")
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(
            f"data: {path} could not be read as parquet after {number} of {total} rows: {shown(str(error), 200)}"
        ) from error


def hub_records(name: str) -> Records:
    """The rows of a hub's data set, split train.

    Raises:
        DataError: The data set cannot be had, or is damaged.
    """
    # Slow to import, and wanted for hub names only.
    import datasets  # type: ignore[import-untyped]

    number, total = 0, "all"
    try:
        rows = datasets.load_dataset(name, split="train")
        total = str(len(rows))
        for number, data in enumerate(rows, start=1):
            yield checked(f"{name}: row {number}", dict(data))
    except (OSError, ValueError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"data: {name} could not be read by `datasets` after {number} of {total} rows: "
            f"{type(error).__name__}: {shown(str(error), 200)}"
        ) from error


def _csv_record(
    where: str, header: Sequence[str], fields: Sequence[str], encoding: str
) -> Record | DataError:
    for name, value in itertools.zip_longest(header, fields, fillvalue=""):
        if problem := undecoded(value, encoding):
            return DataError(f"{where}: {name}: {problem}")
    if len(fields) != len(header):
        return DataError(f"{where}: wanted {len(header)} fields, got {len(fields)}")
    return checked(where, dict(zip(header, fields, strict=True)))


def _batch_rows(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch, each a dict, or the text of what is wrong with it."""
    try:
        yield from batch.to_pylist()
    except ValueError:  # somewhere in the batch
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except ValueError as error:
                yield f"not to be read ({shown(str(error), 120)})"


def checked(where: str, data: dict[str, Any]) -> Record | DataError:
    """Give the record, or an error where it holds what no text file can, or is nested too deep."""
    values: list[tuple[object, int]] = [(data, 0)]
    while values:
        value, depth = values.pop()
        if depth > MAX_DEPTH:
            return DataError(f"{where}: nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, dict):
            values += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list):
            values += [(item, depth + 1) for item in value]
        elif isinstance(value, str) and (problem := unwritable(value)):
            return DataError(f"{where}: holds {problem} in {shown(value)}")
    return Record(where, data)


def undecoded(text: str, encoding: str = UTF_8) -> str:
    match = _NOT_DECODED.search(text)
    if match is None:
        return ""
    byte = f"byte 0x{ord(match.group()) - 0xDC00:02x}, character {match.start() + 1}"
    if encoding == UTF_8:
        return f"not UTF-8 ({byte}); save the file as UTF-8, or name its encoding in data.encoding (cp1252, gb18030, …)"
    return f"not {encoding} ({byte}): data.encoding is another one"


def _distinct(names: Sequence[str], where: str, encoding: str = UTF_8) -> list[str]:
    for name in names:
        if problem := undecoded(name, encoding):
            raise DataError(f"{where}: header: {problem}")
        if name and names.count(name) > 1:
            raise DataError(f"{where}: header: the column {shown(name)} is there twice")
    return list(names)


def _require_columns(header: Sequence[str], delimiter: str, where: str) -> None:
    """Refuse a table that is parted by something else than was thought."""
    others = [mark for mark in ",;\t|" if len(header) == 1 and mark != delimiter and mark in header[0]]
    if others:
        raise DataError(
            f"{where}: header: one column only, {shown(header[0])}: the columns seem to be parted by {others[0]!r}; "
            f"set data.delimiter: {others[0]!r}"
        )
