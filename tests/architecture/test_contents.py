"""The list of a room's files at its door names files that are there."""

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "rl_empathy"
DOORS = sorted(PACKAGE.rglob("__init__.py"))
_LISTED = re.compile(r"^((?:[a-z_]+(?:\.py|/)?(?:, )?)+) {2,}\S", re.MULTILINE)


def listed(text: str) -> list[str]:
    """Names at the beginning of the docstring's lines, before two spaces and what they are."""
    docstring = text.split('"""')[1] if text.startswith('"""') else ""
    return [name for names in _LISTED.findall(docstring) for name in names.split(", ")]


@pytest.mark.parametrize("door", DOORS, ids=lambda path: path.parent.name)
def test_what_is_listed_is_there(door: Path) -> None:
    there = {path.stem for path in door.parent.iterdir()}
    gone = [
        name
        for name in listed(door.read_text(encoding="utf-8"))
        if name.rstrip("/").removesuffix(".py") not in there
    ]
    assert gone == []


def test_a_list_is_read() -> None:
    assert listed('"""A room.\n\nrows.py   rows\nfleet/  handles\na, b   two\nno list here\n"""') == [
        "rows.py",
        "fleet/",
        "a",
        "b",
    ]
