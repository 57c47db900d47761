"""A run file and its overrides as plain data, where every value knows the line or override that gave it."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rl_empathy.config.keys import KeyPath, dotted

_MERGE_TAG = "tag:yaml.org,2002:merge"


class Origin(NamedTuple):
    """Who gave a value. Sorts as a reader meets them: the file from top to bottom, then the overrides."""

    override: int
    """Number of the override, from 1; 0 for the file."""
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
        self.data: dict[str, Any] | None = None
        """None when the file gave nothing that could be validated; then `problems` says why."""
        self.problems: list[Problem] = []
        self._origins: dict[KeyPath, Origin] = {}
        self._read_file()
        for number, override in enumerate(overrides, start=1):
            self._apply(override, Origin(number, 0, f"override {override!r}"))

    def origin(self, path: KeyPath) -> Origin:
        """Who gave the value at `path`, or the nearest thing around it."""
        for end in range(len(path), -1, -1):
            if found := self._origins.get(path[:end]):
                return found
        return Origin(0, 0, self.path)

    def _read_file(self) -> None:
        try:
            text = _text_of(self.path)
            document = _parse(text)
            if document.value is None:
                raise _YamlError(0, "the file is empty; a run file gives at least `model`")
            if not isinstance(document.value, dict):
                kind = "a list" if isinstance(document.value, list) else f"only {document.value!r}"
                raise _YamlError(
                    1, f"a run file is a mapping of sections (run, model, …), this one is {kind}"
                )
        except _YamlError as error:
            self.problems.append(Problem(self._line(error.line), "", error.text))
            return
        self.data = document.value
        self._origins = {path: self._line(line) for path, line in document.lines.items()}
        for line, path, problem in document.problems:
            self.problems.append(Problem(self._line(line), dotted(path), problem))

    def _line(self, line: int) -> Origin:
        return Origin(0, line, f"{self.path}:{line}" if line else self.path)

    def _apply(self, override: str, origin: Origin) -> None:
        key, equals, text = override.partition("=")
        path = tuple(key.strip().split("."))
        if not equals or not all(path):
            self.problems.append(Problem(origin, "", "write section.key=value"))
            return
        try:
            document = _parse(text)
        except _YamlError as error:
            self.problems.append(Problem(origin, dotted(path), error.text))
            return
        self.problems += [Problem(origin, dotted(path + inner), text) for _, inner, text in document.problems]
        if self.data is not None:
            self._set(self.data, path, document.value, origin)

    def _set(self, root: dict[str, Any], path: tuple[str, ...], value: Any, origin: Origin) -> None:
        """Put a value at its place: a mapping is merged with what is there, anything else takes its place."""
        here = root
        for depth, key in enumerate(path[:-1], start=1):
            if here.get(key) is None:
                here[key] = {}
                self._origins[path[:depth]] = origin
            if not isinstance(here[key], dict):
                is_list = isinstance(here[key], list)
                what = "is a list, which is given as a whole" if is_list else "holds one value, not keys"
                self.problems.append(Problem(origin, dotted(path), f"{dotted(path[:depth])} {what}"))
                return
            here = here[key]
        if isinstance(value, dict) and isinstance(here.get(path[-1]), dict):
            for key, inner in value.items():
                self._set(root, (*path, key), inner, origin)
            return
        for known in [known for known in self._origins if known[: len(path)] == path]:
            del self._origins[known]
        here[path[-1]] = value
        self._origins[path] = origin


class _YamlError(Exception):
    def __init__(self, line: int, text: str) -> None:
        super().__init__(line, text)
        self.line, self.text = line, text


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-6 as a number and leaves dates as text."""


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would not read as text."""


_FLOAT = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """PyYAML's own choice of quotes loses the rarer line ends; double quotes escape them."""
    style = '"' if re.search("[\r\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text_node)


def yaml_text(data: dict[str, Any]) -> str:
    """Data as YAML that reads back to equal data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Document(NamedTuple):
    value: Any
    lines: dict[KeyPath, int]
    problems: list[tuple[int, KeyPath, str]]


def _parse(text: str) -> _Document:
    """Read one YAML document, with the line of every key and of every entry of a list."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return _Document(None, {}, [])
        problems = list(_key_problems(node))
        value = loader.construct_document(node)  # also writes merged (<<) keys into the nodes
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _YamlError(line, f"a character that YAML does not allow: {chr(error.character)!r}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _YamlError(mark.line + 1 if mark else 0, _yaml_problem(error)) from None
    except (ValueError, RecursionError) as error:
        raise _YamlError(0, f"this YAML cannot be read: {error}") from None
    return _Document(_with_text_keys(value) if problems else value, dict(_lines(node)), problems)


def _yaml_problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or str(error)
    if r"'\t'" in problem:
        return "a tab, where YAML wants spaces"
    if "alias" in problem or "constructor for the tag" in problem or not error.context:
        return f"this is not YAML that can be read: {problem}"
    return f"this is not YAML that can be read: {problem} ({error.context})"


def _walk(root: yaml.Node) -> list[tuple[KeyPath, yaml.Node, yaml.Node]]:
    """Every (path, key or entry, value) below a node; what an alias repeats is listed once."""
    found: list[tuple[KeyPath, yaml.Node, yaml.Node]] = []
    seen: set[int] = set()

    def visit(node: yaml.Node, path: KeyPath) -> None:
        if id(node) in seen:
            return
        seen.add(id(node))
        entries: list[tuple[str | int, yaml.Node, yaml.Node]]
        if isinstance(node, yaml.MappingNode):
            entries = [(str(key.value), key, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            entries = [(number, value, value) for number, value in enumerate(node.value)]
        else:
            return
        for name, key, value in entries:
            found.append(((*path, name), key, value))
            visit(value, (*path, name))

    visit(root, ())
    return found


def _key_problems(root: yaml.Node) -> list[tuple[int, KeyPath, str]]:
    problems: list[tuple[int, KeyPath, str]] = []
    first_lines: dict[KeyPath, int] = {}
    for path, key, _ in _walk(root):
        line = key.start_mark.line + 1
        if isinstance(path[-1], int) or key.tag == _MERGE_TAG:
            continue
        if key.tag != "tag:yaml.org,2002:str":
            problems.append((line, path, "a key is text; put it in quotes if it is meant"))
        elif path in first_lines:
            problems.append((line, path, f"this key was given before, in line {first_lines[path]}"))
        first_lines.setdefault(path, line)
    return problems


def _lines(root: yaml.Node) -> list[tuple[KeyPath, int]]:
    below = [(path, key.start_mark.line + 1) for path, key, _ in _walk(root)]
    return [((), root.start_mark.line + 1), *below]


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_text_keys(inner) for key, inner in value.items() if isinstance(key, str)}
    return [_with_text_keys(inner) for inner in value] if isinstance(value, list) else value


def _text_of(path: str) -> str:
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise _YamlError(0, f"there is no such file (looked from {Path.cwd()})") from None
    except IsADirectoryError:
        raise _YamlError(0, "this is a folder, not a run file") from None
    except OSError as error:
        raise _YamlError(0, f"the file cannot be read: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        text = f"not UTF-8 text (byte {content[error.start]:#04x}); save the file as UTF-8"
        raise _YamlError(line, text) from None
