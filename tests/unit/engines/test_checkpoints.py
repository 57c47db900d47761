import itertools
import json
import os
import shutil
import sys

import pytest
import torch

from rl_empathy.engines import checkpoints
from rl_empathy.engines.checkpoints import latest_checkpoint, verify_checkpoint, write_checkpoint
from rl_empathy.errors import CheckpointError


def write(folder, step, keep=5, score=None):
    tensors = {"policy": {"weight": torch.full((3,), float(step))}}
    documents = {"driver": {"text": "悲伤"}}
    return write_checkpoint(folder, step, tensors=tensors, documents=documents, keep=keep, score=score)


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_what_was_written_is_read_back(tmp_path):
    write(tmp_path / "a folder", 20)
    found = latest_checkpoint(tmp_path / "a folder")
    assert found.step == 20
    assert found.tensors("policy")["weight"].tolist() == [20, 20, 20]
    assert found.document("driver") == {"text": "悲伤"}
    assert (tmp_path / "a folder" / "latest").read_text() == "step_000020\n"


def test_no_checkpoint_is_none_and_not_an_error(tmp_path):
    assert latest_checkpoint(tmp_path / "nothing") is None


def test_a_flipped_byte_is_named_and_the_one_before_is_used(tmp_path, caplog):
    write(tmp_path, 10)
    flip_a_byte(write(tmp_path, 20).path / "policy.safetensors")
    found = latest_checkpoint(tmp_path)
    assert found.step == 10
    assert "policy.safetensors has another sha256" in caplog.text
    assert ["policy.safetensors" in problem for problem in found.damaged] == [True]


def test_when_every_checkpoint_is_damaged_nothing_starts_anew_in_silence(tmp_path):
    flip_a_byte(write(tmp_path, 10).path / "driver.json")
    with pytest.raises(CheckpointError, match="--fresh"):
        latest_checkpoint(tmp_path)


def test_a_torn_write_is_no_checkpoint_and_is_cleared_away(tmp_path):
    write(tmp_path, 10)
    torn = tmp_path / "step_000020.tmp-0000"
    torn.mkdir()
    (torn / "policy.safetensors").write_bytes(b"half")
    assert latest_checkpoint(tmp_path).step == 10
    write(tmp_path, 30)
    assert not torn.exists()


def write_and_die(folder, step, *, at):
    """Write in a process that dies at its n-th touch of the disk: whether it lived to the end."""
    child = os.fork()
    if child == 0:
        touches = 0

        def die_in_time(event, _):
            nonlocal touches
            touches += event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
            if touches == at:
                os._exit(9)

        sys.addaudithook(die_in_time)
        write(folder, step, keep=1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 0


def test_a_death_at_any_moment_of_a_write_leaves_a_whole_checkpoint(tmp_path):
    steps = []
    for at in itertools.count(1):
        folder = tmp_path / str(at)
        write(folder, 10, keep=1)
        lived = write_and_die(folder, 20, at=at)
        found = latest_checkpoint(folder)
        assert found.tensors("policy")["weight"].tolist() == [found.step] * 3
        assert not found.damaged
        steps.append(found.step)
        write(folder, 30, keep=1)  # the next write clears what is left
        assert sorted(path.name for path in folder.iterdir()) == ["latest", "step_000030"]
        if lived:
            break
    assert steps == sorted(steps), "once there, the new one stays"
    assert set(steps) == {10, 20}
    assert len(steps) > 20, "a write touches the disk more often"


def test_a_death_while_a_step_is_written_again_leaves_it_whole(tmp_path):
    """As by a stop right after a checkpoint; it is the only one."""
    for at in itertools.count(1):
        folder = tmp_path / str(at)
        write(folder, 10, keep=1)
        lived = write_and_die(folder, 10, at=at)
        assert latest_checkpoint(folder).step == 10
        if lived:
            break
    assert at > 20, "a write touches the disk more often"


def test_a_step_that_is_written_again_and_cannot_be_read_back_is_the_one_before(tmp_path, monkeypatch):
    before = write(tmp_path, 10).path.stat().st_ino
    write_manifest = checkpoints._write_manifest

    def write_on_a_bad_disk(folder, step, score):
        write_manifest(folder, step, score)
        flip_a_byte(folder / "policy.safetensors")

    monkeypatch.setattr(checkpoints, "_write_manifest", write_on_a_bad_disk)
    with pytest.raises(CheckpointError, match=r"another sha256.*what was there before still is"):
        write(tmp_path, 10)
    assert latest_checkpoint(tmp_path).path.stat().st_ino == before
    assert [path.name for path in tmp_path.glob("step_*")] == ["step_000010"]


def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew_by_itself(tmp_path):
    shutil.rmtree(write(tmp_path, 10).path)
    with pytest.raises(
        CheckpointError, match=r"latest names step_000010, and no checkpoint is there\n.*--fresh"
    ):
        latest_checkpoint(tmp_path)


def test_older_checkpoints_are_deleted_only_beyond_keep(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_000002", "step_000003"]


def test_the_best_is_kept_beside_the_last_ones_and_has_a_pointer(tmp_path):
    for step, score in ((1, 0.2), (2, 0.9), (3, 0.4), (4, None), (5, 0.5)):
        write(tmp_path, step, keep=2, score=score)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == [f"step_{i:06d}" for i in (2, 4, 5)]
    assert (tmp_path / "best").read_text() == "step_000002\n"
    write(tmp_path, 6, keep=2, score=0.9)  # equally good, and newer
    assert sorted(path.name for path in tmp_path.glob("step_*")) == [f"step_{i:06d}" for i in (5, 6)]
    assert (tmp_path / "best").read_text() == "step_000006\n"


def test_the_same_step_written_again_keeps_its_score(tmp_path):
    """As by a stop right after a checkpoint, before anything else was trained."""
    write(tmp_path, 1, score=0.5)
    write(tmp_path, 2, score=0.9)
    write(tmp_path, 2)
    assert (tmp_path / "best").read_text() == "step_000002\n"


def test_newer_checkpoints_that_a_resume_has_passed_over_do_not_push_the_new_one_out(tmp_path):
    write(tmp_path, 20, keep=2, score=0.9)
    for step in (98, 100):
        flip_a_byte(write(tmp_path, step, keep=2, score=0.1).path / "policy.safetensors")
    assert latest_checkpoint(tmp_path).step == 20  # the best, which is kept beside the last two
    write(tmp_path, 22, keep=2, score=0.2)
    assert latest_checkpoint(tmp_path).step == 22
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_000020", "step_000022"]


def test_without_a_score_there_is_no_best(tmp_path):
    write(tmp_path, 1, keep=1, score=0.5)
    write(tmp_path, 2, keep=1)
    assert (tmp_path / "best").read_text() == "step_000001\n"
    (tmp_path / "step_000001" / "manifest.json").write_text("{}")
    write(tmp_path, 3, keep=1)
    assert not (tmp_path / "best").exists()


def test_a_full_disk_leaves_what_was_there_and_says_so(small_disk):
    disk = small_disk(1)
    write(disk, 10)
    (disk / "other").write_bytes(b"x" * 600_000)
    large = {"policy": {"weight": torch.zeros(150_000)}}  # 600 kB
    with pytest.raises(CheckpointError, match=r"what was there before still is\. 0 MiB are free there"):
        write_checkpoint(disk, 20, tensors=large, documents={}, keep=5)
    assert [path.name for path in disk.glob("step_*")] == ["step_000010"]
    assert latest_checkpoint(disk).step == 10
    (disk / "other").unlink()
    write_checkpoint(disk, 20, tensors=large, documents={}, keep=5)
    assert latest_checkpoint(disk).step == 20


def test_writing_the_same_step_again_replaces_it(tmp_path):
    write(tmp_path, 10)
    write(tmp_path, 10)
    assert verify_checkpoint(tmp_path / "step_000010").step == 10


def test_a_manifest_that_misses_a_file_is_damage(tmp_path):
    path = write(tmp_path, 10).path
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["more.json"] = {"bytes": 1, "sha256": ""}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"more\.json"):
        verify_checkpoint(path)


@pytest.mark.parametrize("damage", [lambda text: text.replace(b"20", b"30"), lambda text: b"\xff" + text[1:]])
def test_a_damaged_manifest_is_named_and_the_one_before_is_used(tmp_path, caplog, damage):
    write(tmp_path, 10)
    manifest = write(tmp_path, 20).path / "manifest.json"
    manifest.write_bytes(damage(manifest.read_bytes()))
    assert latest_checkpoint(tmp_path).step == 10
    assert "step_000020" in caplog.text
