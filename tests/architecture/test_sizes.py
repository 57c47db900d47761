"""A file can be read in one sitting, and a function fits on a screen."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("rl_empathy", "benchmarks")
MOST_LINES_OF_A_FILE = 300
MOST_LINES_OF_A_FUNCTION = 50
"""From `def` to the last line, docstring included, decorators not."""


def python_files() -> list[Path]:
    """Those of the folders, without what benchmarks have written into `out`."""
    found = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if "out" not in path.relative_to(ROOT).parts]


def long_functions(text: str, most_lines: int) -> list[str]:
    """Name and length of each function that has more lines, nested functions and methods included."""
    functions = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = {node: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    return [f"{node.name}: {length} lines" for node, length in lengths.items() if length > most_lines]


def test_there_are_files():
    assert len(python_files()) > 100


def test_no_file_is_longer_than_300_lines():
    long = {
        path.relative_to(ROOT).as_posix(): length
        for path in python_files()
        if (length := path.read_text(encoding="utf-8").count("\n")) > MOST_LINES_OF_A_FILE
    }
    assert long == {}


def test_no_function_is_longer_than_50_lines():
    long = [
        f"{path.relative_to(ROOT).as_posix()} {function}"
        for path in python_files()
        for function in long_functions(path.read_text(encoding="utf-8"), MOST_LINES_OF_A_FUNCTION)
    ]
    assert long == []


def test_a_long_function_is_found_wherever_it_is():
    text = (
        "@decorated\ndef short():\n    return 1\n\n\nclass Noun:\n    async def long(self):\n        a = 1\n"
        "        return a\n"
    )

    assert long_functions(text, 2) == ["long: 3 lines"]
