"""A file or a folder is whole, or as it was."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rl_empathy.observability.disk import whole_file, whole_folder, write_whole

KILLED = """
import os, signal, sys
from pathlib import Path
from rl_empathy.observability.disk import {function} as whole
with whole(Path(sys.argv[1])) as written:
    if isinstance(written, Path):
        (written / "half").write_text("new")
    else:
        written.write("new"); written.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_in(function: str, path: Path) -> None:
    program = KILLED.format(function=function)
    done = subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=False)
    assert done.returncode == -9


def test_an_error_in_the_middle_leaves_the_old_content_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "part").write_text("old")

    def fill(whole: Any, name: str) -> None:
        with whole(tmp_path / name) as written:
            written.joinpath("half").touch() if name == "folder" else written.write("half")
            raise OSError("full")

    for whole, name in ((whole_file, "file"), (whole_folder, "folder")):
        with pytest.raises(OSError, match="full"):
            fill(whole, name)
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["part"]
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


@pytest.mark.parametrize("function", ["whole_file", "whole_folder"])
def test_a_kill_leaves_the_old_content_and_the_next_write_is_whole(function: str, tmp_path: Path) -> None:
    path = tmp_path / "kept 保存"
    if function == "whole_file":
        write_whole(path, "old")
        killed_in(function, path)
        assert path.read_text() == "old"
        write_whole(path, "new")
        assert path.read_text() == "new"
    else:
        with whole_folder(path) as folder:
            (folder / "part").write_text("old")
        killed_in(function, path)
        assert [file.name for file in path.iterdir()] == ["part"]
        with whole_folder(path) as folder:
            (folder / "other").touch()
        assert [file.name for file in path.iterdir()] == ["other"]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_files_are_their_owners_only_and_half_a_character_is_an_escape(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(mode=0o644)
    write_whole(path, "难\ud83d")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text(encoding="utf-8") == "难\\ud83d"


def test_who_has_a_file_of_a_replaced_folder_open_keeps_it(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("old")
    with (tmp_path / "model" / "weights").open() as held:
        with whole_folder(tmp_path / "model") as folder:
            (folder / "weights").write_text("new")
        assert held.read() == "old"
    assert (tmp_path / "model" / "weights").read_text() == "new"


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    """The old folder stands aside, and the new one has not its name yet; then the next one fails."""
    (tmp_path / "model.old").mkdir()
    (tmp_path / "model.old" / "weights").write_text("old")
    (tmp_path / "model.tmp").mkdir()

    def fail() -> None:
        with whole_folder(tmp_path / "model"):
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert (tmp_path / "model" / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_users_file_of_a_like_name_stays(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.tmp").write_text("mine")
    write_whole(tmp_path / "rows.jsonl", "new")
    assert (tmp_path / "rows.jsonl.tmp").read_text() == "mine"
