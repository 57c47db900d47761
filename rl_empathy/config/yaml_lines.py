"""YAML as plain data, with the line of every key and of every entry of a list."""

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rl_empathy.config.keys import KeyPath

_MERGE_TAG = "tag:yaml.org,2002:merge"


class YamlError(Exception):
    """What is wrong with a text, and in which line; 0 for the whole."""

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


def yaml_text(data: dict[str, Any], *, width: int | None = 100) -> str:
    """Data as YAML that reads back to equal data.

    Args:
        data: Mappings, lists, texts, numbers.
        width: Longer lines are broken; None breaks none.
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width or sys.maxsize)


class Document(NamedTuple):
    """One YAML document."""

    value: Any
    lines: dict[KeyPath, int]
    """Line of every key and entry, from 1."""
    problems: list[tuple[int, KeyPath, str]]
    """Keys that are no text, or that are given twice: line, key, what is wrong."""


def parse(text: str) -> Document:
    """Read one YAML document.

    Raises:
        YamlError: It cannot be read.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(None, {}, [])
        problems = list(_key_problems(node))
        value = loader.construct_document(node)  # also writes merged (<<) keys into the nodes
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(line, f"a character that YAML does not allow: {chr(error.character)!r}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(mark.line + 1 if mark else 0, _yaml_problem(error)) from None
    except (ValueError, RecursionError) as error:
        raise YamlError(0, f"this YAML cannot be read: {error}") from None
    return Document(_with_text_keys(value) if problems else value, dict(_lines(node)), problems)


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


def text_of(path: str) -> str:
    """The text of a file.

    Raises:
        YamlError: There is none, or it is not UTF-8.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise YamlError(0, f"there is no such file (looked from {Path.cwd()})") from None
    except IsADirectoryError:
        raise YamlError(0, "this is a folder, not a run file") from None
    except OSError as error:
        raise YamlError(0, f"the file cannot be read: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        text = f"not UTF-8 text (byte {content[error.start]:#04x}); save the file as UTF-8"
        raise YamlError(line, text) from None
