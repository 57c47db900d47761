"""A run file, those that it extends, and overrides as plain data, where every value knows the line that gave it."""

import os
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

from rl_empathy.config.keys import KeyPath, default_list, dotted, parsed
from rl_empathy.config.yaml_lines import Document, YamlError, parse, text_of

EXTENDS = "extends"
MOST_FILES = 5
"""A run file and those that it extends, at most: in a longer chain nobody finds where a value comes from."""


class Origin(NamedTuple):
    """Who gave a value. Sorts as a reader meets them: files from the base on, from top to bottom, then overrides."""

    number: int
    """Number of the override, from 1; 0 for the run file, -1 for the file that it extends, and so on."""
    line: int
    """Line of the file, from 1; 0 for an override."""
    place: str
    """As printed: `file.yaml:4`, or `override 'grpo.num_steps=abc'`."""


class Problem(NamedTuple):
    """One thing that is wrong: where, with which key (none: with the whole), and what."""

    origin: Origin
    key: str
    text: str

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.origin.place}  {key}{self.text}"


class Source:
    """The merged data of a run file and its overrides, with the origin of every key."""

    def __init__(self, path: str | os.PathLike[str], overrides: Sequence[str]) -> None:
        self.path = str(path)
        self.folders: list[str] = []
        """Of the run file, then of the files that it extends."""
        self.data: dict[str, Any] | None = None
        """None when the files gave nothing that could be validated; then `problems` says why."""
        self.problems: list[Problem] = []
        self._origins: dict[KeyPath, Origin] = {}
        self._read(self.path, ())
        for number, override in enumerate(overrides, start=1):
            self._apply(override, Origin(number, 0, f"override {override!r}"))

    def origin(self, path: KeyPath) -> Origin:
        """Who gave the value at `path`: the last override of something in it, or the nearest thing around it."""
        inside = [origin for at, origin in self._origins.items() if path and at[: len(path)] == path]
        if (last := max(inside, default=None)) and last.number > 0:
            return last
        for end in range(len(path), -1, -1):
            if found := self._origins.get(path[:end]):
                return found
        return Origin(0, 0, self.path)

    def gave(self, path: KeyPath) -> Origin | None:
        """Who gave the value at `path` itself; None for a default."""
        return self._origins.get(path)

    def _read(self, path: str, below: tuple[str, ...]) -> None:
        """Take what a file extends, then the file; `below` are the files that led to it, the run file first."""
        try:
            document = parse(text_of(path))
            if document.value is None:
                raise YamlError(0, "the file is empty; a run file gives at least `model`")
            if not isinstance(document.value, dict):
                kind = "a list" if isinstance(document.value, list) else f"only {document.value!r}"
                raise YamlError(1, f"a run file is a mapping of sections (run, model, …), this one is {kind}")
            self.folders.append(str(Path(path).parent))
            if EXTENDS in document.value:
                self._read_base(document, path, (*below, path))
        except YamlError as error:
            self.problems.append(Problem(_line(path, error.line, -len(below)), "", error.text))
            return
        self._take(document, path, -len(below))

    def _read_base(self, document: Document, path: str, chain: tuple[str, ...]) -> None:
        base, line = document.value.pop(EXTENDS), document.lines[(EXTENDS,)]
        if not isinstance(base, str):
            raise YamlError(line, f"extends names one run file, got {base!r}")
        found = str(Path(path).parent / os.path.expanduser(base))
        if not os.path.isfile(found):
            raise YamlError(
                line, f"extends {base}: there is no {found} (a run file, from this file's folder on)"
            )
        if any(os.path.samefile(found, other) for other in chain):
            raise YamlError(line, f"extends {base}, which in turn extends this file")
        if len(chain) == MOST_FILES:
            raise YamlError(
                line, f"{MOST_FILES} files extend one another already; write some of them into one"
            )
        self._read(found, chain)
        if self.data is not None and isinstance(self.data.get("run"), dict):
            self.data["run"].pop("name", None)  # each file is a run of its own

    def _take(self, document: Document, path: str, number: int) -> None:
        """Merge a file into what the files that it extends have given."""
        self.data = {} if self.data is None else self.data
        origins = {at: _line(path, line, number) for at, line in document.lines.items() if at != (EXTENDS,)}
        for key, value in document.value.items():
            if value is None and isinstance(self.data.get(key), dict):
                continue  # a section without keys says nothing
            self._set(self.data, (key,), value, origins[(key,)])
        self._origins |= origins
        for line, at, problem in document.problems:
            self.problems.append(Problem(_line(path, line, number), dotted(at), problem))

    def _apply(self, override: str, origin: Origin) -> None:
        key, equals, text = override.partition("=")
        try:
            path = parsed(key.strip())
        except ValueError:
            path = ()
        if not equals or not path:
            text = (
                "entries are counted from 0, never from the end" if "[-" in key else "write section.key=value"
            )
            self.problems.append(Problem(origin, "", text))
            return
        try:
            document = parse(text)
        except YamlError as error:
            self.problems.append(Problem(origin, dotted(path), error.text))
            return
        self.problems += [Problem(origin, dotted(path + inner), text) for _, inner, text in document.problems]
        if self.data is not None:
            self._set(self.data, path, document.value, origin)

    def _set(self, root: dict[str, Any], path: KeyPath, value: Any, origin: Origin) -> None:
        """Put a value at its place: a mapping is merged with what is there, anything else takes its place."""
        here = self._around(root, path, origin)
        if here is None:
            return
        key = path[-1]
        if isinstance(value, dict) and isinstance(_inner(here, key), dict):
            for name, inner in value.items():
                self._set(root, (*path, name), inner, origin)
            return
        for known in [known for known in self._origins if known[: len(path)] == path]:
            del self._origins[known]
        here[key] = value
        self._origins |= dict.fromkeys(_paths(value, path), origin)

    def _around(self, root: dict[str, Any], path: KeyPath, origin: Origin) -> Any:
        """The mapping or list in which the last key of `path` stands.

        A section that lacks is made, and a list begins as its default.

        Returns:
            None where there is no such place; then it is among the problems.
        """
        here: Any = root
        for depth, key in enumerate(path, start=1):
            if problem := _misfit(here, path, depth):
                self.problems.append(Problem(origin, dotted(path), problem))
                return None
            if depth < len(path):
                inner = _inner(here, key)
                if inner is None:
                    default = default_list(path[:depth])
                    inner = {} if default is None else default
                    if not _misfit(inner, path, depth + 1):
                        here[key] = inner
                        self._origins[path[:depth]] = origin
                elif isinstance(inner, dict | list):
                    inner = here[key] = copy(inner)  # an alias (*) of YAML is one object at two places
                here = inner
        return here


def _inner(here: Any, key: str | int) -> Any:
    return here.get(key) if isinstance(here, dict) else here[key]


def _misfit(here: Any, path: KeyPath, depth: int) -> str:
    """Why what stands around the key number `depth` of a path cannot hold it; "" where it can."""
    key, around = path[depth - 1], dotted(path[: depth - 1])
    if isinstance(here, dict):
        return f"{around} is no list" if isinstance(key, int) else ""
    if not isinstance(here, list):
        return f"{around} holds one value, not keys"
    if isinstance(key, int):
        entries = f"entries {around}[0] to {around}[{len(here) - 1}]" if here else "no entries"
        return "" if key < len(here) else f"{around} has {entries}"
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in here]
    any_of_them = f"0…{len(here) - 1}" if len(here) > 1 else "0"
    number = key if key.isdecimal() else str(names.index(key)) if key in names else any_of_them
    rest = f".{dotted(path[depth:])}" if path[depth:] else ""
    return f"{around} is a list: write {around}[{number}]{rest}=…, or give it as a whole"


def _line(path: str, line: int, number: int) -> Origin:
    return Origin(number, line, f"{path}:{line}" if line else path)


def _paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """The place of a value, and of everything in it."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from _paths(inner, (*path, key))
