"""A JSON text may hold U+2028, U+2029 and U+0085, at which `str.splitlines` cuts: files are split at a line feed."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CUT = re.compile(r"\.read(?:_text|_bytes|)\([^()]*\)\.splitlines\(")


def test_no_file_is_split_at_other_characters_than_the_line_feed() -> None:
    files = [
        *ROOT.glob("rl_empathy/**/*.py"),
        *ROOT.glob("benchmarks/*.py"),
        *ROOT.glob("benchmarks/sleeping/*.py"),
    ]

    assert [str(file) for file in files if CUT.search(file.read_text(encoding="utf-8"))] == []
