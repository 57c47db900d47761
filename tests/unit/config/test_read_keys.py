"""No key of the run file is dead: each is read where something is done, outside `config/`."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from rl_empathy.config.keys import sections_in
from rl_empathy.config.run_file import RunFile

ROOT = Path(__file__).parents[3]
READ_ELSEWHERE = {
    ("EvaluateConfig", "completions_per_prompt"): "by the property `num_completions`",
    ("GRPOConfig", "loss"): "by the property `correction`",
    ("OwnStageConfig", "takes"): "by the table of stages",
    ("RunConfig", "import_from"): "by the property `code_folders`",
    ("RewardModelingConfig", "kind"): "into the reward model's description, which the loader looks at",
}
PLAIN_SECTION = """
Fraction = Positive = float
Count = int

class Section: ...
"""
"""Without pydantic, so that no library has to be read."""
READ = re.compile(
    r'^rl_empathy/(?!config/).*: error: (?:Item )?"(\w+)" (?:of ".+" )?has no attribute "(\w+)"', re.MULTILINE
)


def sections(section: type[BaseModel] = RunFile) -> dict[str, type[BaseModel]]:
    inner = [found for field in section.model_fields.values() for found in sections_in(field.annotation)]
    return {section.__name__: section} | {name: s for part in inner for name, s in sections(part).items()}


def without_keys(source: str, sections_inside: set[str]) -> str:
    """The module without the keys that hold values, and without the rules between them."""
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        for part in node.body if isinstance(node, ast.ClassDef) else ():
            holds_section = isinstance(part, ast.AnnAssign) and any(
                isinstance(name, ast.Name) and name.id in sections_inside
                for name in ast.walk(part.annotation)
            )
            rule = isinstance(part, ast.FunctionDef) and "validator" in ast.dump(
                ast.Module(part.decorator_list, [])
            )
            if (isinstance(part, ast.AnnAssign) and not holds_section) or rule:
                first = part.decorator_list[0].lineno if rule else part.lineno
                lines[first - 1 : part.end_lineno] = [""] * (part.end_lineno - first + 1)
    return "\n".join(lines)


@pytest.mark.slow
def test_every_key_of_the_run_file_is_read_outside_its_declaration(tmp_path: Path) -> None:
    """The keys are taken out of a copy, and the type checker says who misses them."""
    known = sections()
    for path in (ROOT / "rl_empathy").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        is_section = copy.parent.name == "sections" and copy.name not in ("__init__.py", "section.py")
        copy.write_text(without_keys(source, set(known)) if is_section else source, encoding="utf-8")
    (tmp_path / "rl_empathy/config/sections/section.py").write_text(PLAIN_SECTION, encoding="utf-8")
    mypy = [
        sys.executable,
        "-m",
        "mypy",
        "--no-site-packages",
        "--ignore-missing-imports",
        "--check-untyped-defs",
    ]
    checked = subprocess.run([*mypy, "rl_empathy"], cwd=tmp_path, capture_output=True, text=True)
    read = set(READ.findall(checked.stdout))
    assert ("SamplingConfig", "temperature") in read, checked.stdout + checked.stderr
    unread = {
        (name, key)
        for name, section in known.items()
        if section.__module__.startswith("rl_empathy.config.sections")
        for key, field in section.model_fields.items()
        # A key that several sections have is read of the class that they share.
        if not sections_in(field.annotation) and not {(c.__name__, key) for c in section.__mro__} & read
    }
    assert unread == READ_ELSEWHERE.keys()
