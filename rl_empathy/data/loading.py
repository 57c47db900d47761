"""The counselling text of a run: read, screened for risk, de-duplicated, filtered, and split by prompt.

    source ──> rows ──> risk ──> equal prompts merged ──> references filtered ──> train | held out
                │ bad rows: stop or skip

Every row that is left out or changed is counted. Nothing depends on the order of the rows in the source.
"""

import hashlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rl_empathy.config.sections import DataConfig
from rl_empathy.data.formats import FORMATS, read
from rl_empathy.data.risk import SAFE_REPLY, speaks_of_risk
from rl_empathy.data.rows import row_to_dict
from rl_empathy.data.sources import Source, locate
from rl_empathy.data.split import Link, split, split_beside
from rl_empathy.data.templates import template_trace
from rl_empathy.data.text import conversation_key, folded
from rl_empathy.errors import DataError
from rl_empathy.types import Reference, Row

COUNTS = (
    "rows_read",
    "bad_rows",
    "risk_kept",
    "risk_excluded",
    "risk_templated",
    "duplicates",
    "short_references",
    "long_references",
    "extra_references",
    "rows_without_reference",
    "near_copies",
    "shared_references",
    "left_out_beside_held_out",
)
"""Keys of `DataSet.counts`, in the order in which things happen.

Rows that end without a reference are kept: they are prompts for reinforcement learning, while fine-tuning and
reward modelling pass over them. near_copies and shared_references are rows that stay on the side of another one, with
nearly the same post or an equal reference: `DataSet.links` names them; beside a held-out file of its own, such rows of
the training file are left out."""

OnRisk = Literal["keep", "exclude", "template"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """The rows of a run. No conversation, none that goes on from it, no near-copy and no reference is on both sides.

    Both sides are in an order drawn from the seed, so that a prefix is a fair sample.
    """

    train: tuple[Row, ...]
    held_out: tuple[Row, ...]
    counts: Mapping[str, int]
    """What became of the rows, by the names of COUNTS."""
    sha256: str
    """Digest of the source file, of a folder's file names and digests, or of the rows read from a hub's data set."""
    source: str
    """Path or hub name."""
    links: tuple[Link, ...] = ()
    """Why rows of different conversations stay on one side."""

    @property
    def summary(self) -> str:
        """What was read, in a line."""
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items() if count)
        return (
            f"{self.source}: {len(self.train)} prompts to train on, {len(self.held_out)} held out ({counts})"
        )


def load_data(config: DataConfig, *, seed: int) -> DataSet:
    """Read, clean and split the counselling text of a run.

    Raises:
        DataError: The file is missing, a row is wrong (`on_bad_row`: stop), or the split asks for too much.
    """
    expected = FORMATS[config.format].language or config.language
    if config.train is not None and config.language != expected:
        raise DataError(
            f"data.format {config.format} is a set in {expected}, but data.language is {config.language}; "
            f"set data.language: {expected}"
        )
    if config.train is None and config.format != "rows":
        raise DataError(f"data.format {config.format} reads no bundled set; name a file in data.train")
    counts: Counter[str] = Counter()
    source, rows, digest = _read(config.train, config, counts)
    if config.held_out is None:
        parts = split(rows, config.held_out_prompts, language=config.language, seed=seed, name=source)
    else:
        _, held_out, held_out_digest = _read(config.held_out, config, counts)
        digest = hashlib.sha256(f"{digest} {held_out_digest}".encode()).hexdigest()
        parts = split_beside(rows, held_out, language=config.language, seed=seed, name=source)
    counts.update(parts.counts)
    return DataSet(
        train=parts.train,
        held_out=parts.held_out,
        links=parts.links,
        counts={name: counts[name] for name in COUNTS},
        sha256=digest,
        source=source,
    )


def _read(name: str | None, config: DataConfig, counts: Counter[str]) -> tuple[str, list[Row], str]:
    """A source's name, its rows, cleaned, and its digest; what became of them is counted."""
    source = locate(
        name,
        hub=FORMATS[config.format].on_hub,
        language=config.language,
        columns=config.columns,
        encoding=config.encoding,
        delimiter=config.delimiter,
        replies=config.replies,
    )
    rows, bad_rows = read_source(source, config.format, on_bad_row=config.on_bad_row)
    counts.update(rows_read=len(rows), bad_rows=bad_rows)
    digest = _digest(source, rows)
    rows = screened(rows, config.on_risk, counts)
    return source.name, [_filtered(row, config, counts) for row in _merged(rows, counts)], digest


def read_source(source: Source, format: str, *, on_bad_row: Literal["stop", "skip"]) -> tuple[list[Row], int]:
    """Read all rows; returns them and the number of bad rows that were skipped.

    Raises:
        DataError: Rows are wrong and `on_bad_row` is stop (names the first ten), the rest of the source cannot be
            read, or there is no row at all.
    """
    rows: list[Row] = []
    errors: list[str] = []
    try:
        for item in read(source, format):
            if isinstance(item, Row):
                rows.append(item)
            else:
                errors.append(str(item))
    except OSError as error:
        raise DataError(f"data: {source.name} could not be read after {len(rows)} rows: {error}") from error
    listed = "".join(f"\n  {error}" for error in errors[:10]) + ("\n  …" if len(errors) > 10 else "")
    if errors and on_bad_row == "stop":
        raise DataError(
            f"data: {len(errors)} bad row(s) in {source.name}, beside {len(rows)} good ones; "
            f"mend them, or set data.on_bad_row: skip (annotate: --on-bad-row skip){listed}"
        )
    if errors:
        log.warning("%d bad row(s) in %s are skipped:%s", len(errors), source.name, listed)
    if not rows:
        raise DataError(f"data: {source.name} has no row that format {format} can read{listed}")
    return rows, len(errors)


def screened(rows: Sequence[Row], on_risk: OnRisk, counts: Counter[str]) -> list[Row]:
    """Treat the rows in which the help-seeker speaks of acute risk; nobody else's words are looked at.

    Args:
        rows: All rows.
        on_risk: As in `data.on_risk`: such a row stays, is left out, or stays with the fixed safe reply and a trace.
        counts: Gets one more risk_kept, risk_excluded or risk_templated for each such row.
    """
    kept: list[Row] = []
    for row in rows:
        if not any(m.role == "user" and speaks_of_risk(m.content) for m in row.messages):
            kept.append(row)
        elif on_risk == "keep":
            counts["risk_kept"] += 1
            kept.append(row)
        elif on_risk == "template":
            counts["risk_templated"] += 1
            language = _language(row)
            reply = Reference(text=SAFE_REPLY[language])
            kept.append(replace(row, references=(reply,), trace=template_trace(row, language)))
        else:
            counts["risk_excluded"] += 1
    return kept


def _language(row: Row) -> Literal["en", "zh"]:
    return "zh" if row.metadata.get("language") == "zh" else "en"


def _merged(rows: Sequence[Row], counts: Counter[str]) -> list[Row]:
    """Merge rows of equal conversations: one row with all their references, best first. Each text is there once."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(conversation_key(row.messages), []).append(row)
    counts["duplicates"] += len(rows) - len(groups)
    merged = (_merge(group) if len(group) > 1 else group[0] for group in groups.values())
    return [replace(row, references=_distinct(row.references)) for row in merged]


def _merge(group: list[Row]) -> Row:
    group = sorted(group, key=lambda row: (row.id, json.dumps(row_to_dict(row), sort_keys=True)))
    best = tuple(sorted((r for row in group for r in row.references), key=lambda r: -(r.votes or 0)))
    traced = [row.trace for row in group if row.trace and row.references[:1] == best[:1]]
    return replace(group[0], references=best, trace=traced[0] if traced else None)


def _distinct(references: Sequence[Reference]) -> tuple[Reference, ...]:
    """The first of those that are equal but for case, white space and punctuation."""
    first: dict[str, Reference] = {}
    for reference in references:
        first.setdefault(folded(reference.text), reference)
    return tuple(first.values())


def _filtered(row: Row, config: DataConfig, counts: Counter[str]) -> Row:
    """Leave out short, long and surplus references; a trace goes with the reference that it leads to."""
    longest = config.max_answer_characters or sys.maxsize
    enough = tuple(r for r in row.references if len(r.text.strip()) >= config.min_answer_characters)
    fitting = tuple(r for r in enough if len(r.text.strip()) <= longest)
    kept = fitting[: config.max_references]
    counts["short_references"] += len(row.references) - len(enough)
    counts["long_references"] += len(enough) - len(fitting)
    counts["extra_references"] += len(fitting) - len(kept)
    counts["rows_without_reference"] += not kept
    return replace(row, references=kept, trace=row.trace if row.references[:1] == kept[:1] else None)


def _digest(source: Source, rows: Sequence[Row]) -> str:
    if source.path is not None and source.path.is_dir():
        lines = (f"{file.name} {_file_digest(file)}\n" for file in source.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    if source.path is not None:
        return _file_digest(source.path)
    texts = (json.dumps(row_to_dict(row), sort_keys=True, ensure_ascii=False) for row in rows)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
