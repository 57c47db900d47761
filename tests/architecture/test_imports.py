"""What benchmarks and tests import of the package is there: nobody runs all of them after every change."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]


def defined_in(module: str) -> set[str]:
    """The names that a module of the package has, its parts included."""
    path = ROOT / module.replace(".", "/")
    inside = path / "__init__.py"
    file = inside if inside.exists() else path.with_suffix(".py")
    names = {entry.stem for entry in path.iterdir()} if file == inside else set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_what_is_imported_of_the_package_is_there() -> None:
    missing = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.module} has no {alias.name}"
        for folder in ("benchmarks", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "out" not in path.relative_to(ROOT).parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rl_empathy.")
        for alias in node.names
        if alias.name not in defined_in(str(node.module))
    ]
    assert missing == []
