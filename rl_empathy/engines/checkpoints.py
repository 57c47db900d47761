"""Checkpoints that are whole or absent: safetensors and JSON, a manifest with sizes and sha256.

step_000020.tmp-<id>/  policy.safetensors optimizer.safetensors … state.json manifest.json
── fsync, rename ──>  step_000020/   ── then the pointers ──>  latest, best
"""

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rl_empathy.errors import CheckpointError
from rl_empathy.observability.disk import sync, write_whole

MANIFEST = "manifest.json"
LATEST = "latest"
BEST = "best"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    path: Path
    step: int
    damaged: tuple[str, ...] = ()
    """What is wrong with each newer one, which was passed over."""

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `<name>.safetensors`."""
        return load_file(self.path / f"{name}.safetensors")

    def document(self, name: str) -> Any:
        """The content of `<name>.json`."""
        return json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))


def write_checkpoint(
    folder: Path,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Any],
    keep: int,
    score: float | None = None,
) -> Checkpoint:
    """Write, read back, then let the pointers name it and delete older ones.

    Args:
        folder: Holds the checkpoints of one stage.
        step: The step that it was taken after.
        tensors: Tensors by name, by file.
        documents: JSON values by file.
        keep: Checkpoints to leave in the folder, this one included, beside the one with the highest score.
        score: How good it is, in any unit; the pointer `best` names the highest of those that have one. None: that
            of the same step, where it was written before.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: It could not be written (a full disk, for example); what was there before still is.
    """
    target = folder / folder_name(step)
    score = _score(target) if score is None else score
    temporary, set_aside = (folder / f"{target.name}.tmp-{uuid.uuid4().hex[:8]}" for _ in range(2))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        _fill(temporary, tensors, documents)
        _write_manifest(temporary, step, score)
        checkpoint = _rename_and_verify(temporary, target, set_aside)
        for undone in [path for path in _checkpoint_folders(folder) if path > target]:
            shutil.rmtree(undone)  # passed over by a resume, which has made its steps undone
        best = _point_to_latest_and_best(folder, target)
    except (OSError, SafetensorError, ValueError, CheckpointError) as error:
        _restore(temporary, target, set_aside)
        raise CheckpointError(
            f"checkpoint {target} could not be written ({error}); what was there before still is. "
            f"{_free_bytes(folder) >> 20} MiB are free there; make room, "
            "then start the run again: it goes on from the last checkpoint"
        ) from error
    _remove_leftovers(folder)
    _delete_older(folder, keep=keep, best=best)
    return checkpoint


def _rename_and_verify(temporary: Path, target: Path, set_aside: Path) -> Checkpoint:
    """Give a filled folder its name and read it back.

    Args:
        temporary: The filled folder.
        target: Its name. A checkpoint of the same step may be there.
        set_aside: Where that one waits until the new one was read back.
    """
    if target.exists():
        target.rename(set_aside)
    temporary.rename(target)
    sync(target.parent)
    return verify_checkpoint(target)


def _restore(temporary: Path, target: Path, set_aside: Path) -> None:
    """Leave what was there before the writing began; the paths are those of `_rename_and_verify`."""
    shutil.rmtree(temporary, ignore_errors=True)
    if set_aside.exists():
        shutil.rmtree(target, ignore_errors=True)
        set_aside.rename(target)


def _fill(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any]) -> None:
    folder.mkdir()
    for name, content in tensors.items():
        save_file({k: v.contiguous() for k, v in content.items()}, folder / f"{name}.safetensors")
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(
            json.dumps(document, ensure_ascii=False), encoding="utf-8", errors="backslashreplace"
        )


def _point_to_latest_and_best(folder: Path, latest: Path) -> Path | None:
    """Have the pointers name the newest checkpoint, and the one of the highest score, which is returned."""
    _point_to(folder, LATEST, latest.name)
    best = _best(folder)
    if best:
        _point_to(folder, BEST, best.name)
    else:
        (folder / BEST).unlink(missing_ok=True)
    return best


def _delete_older(folder: Path, *, keep: int, best: Path | None) -> None:
    for old in list(_checkpoint_folders(folder))[keep:]:
        if old != best:
            shutil.rmtree(old)


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint; damaged ones are named and passed over.

    Returns:
        None when the folder holds no checkpoint at all.

    Raises:
        CheckpointError: There are checkpoints and every one is damaged, or the one that `latest` names is gone and no
            other is there; a run never starts anew by itself.
    """
    _name_again(folder)
    problems: list[str] = []
    for path in _checkpoint_folders(folder):
        try:
            return replace(verify_checkpoint(path), damaged=tuple(problems))
        except CheckpointError as error:
            log.warning("%s: using the one before", error)
            problems.append(str(error))
    pointer = folder / LATEST
    if not problems and pointer.exists():
        problems.append(
            f"{pointer} names {pointer.read_text(encoding='utf-8').strip()}, and no checkpoint is there"
        )
    if problems:
        raise CheckpointError(
            "no checkpoint can be used:\n  " + "\n  ".join(problems) + "\nstart with --fresh to begin anew"
        )
    return None


def verify_checkpoint(path: Path) -> Checkpoint:
    """Compare every file with the manifest.

    Raises:
        CheckpointError: The manifest is missing or a file has another size or sha256; the text names the file.
    """
    step = _verified_step(path)
    if path.name != folder_name(step):
        raise CheckpointError(f"checkpoint {path}: its manifest says step {step}")
    return Checkpoint(path=path, step=step)


def _verified_step(path: Path) -> int:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, wanted in manifest["files"].items():
            size = (path / name).stat().st_size
            if size != wanted["bytes"]:
                raise CheckpointError(f"checkpoint {path}: {name} has {size} bytes, not {wanted['bytes']}")
            if _sha256(path / name) != wanted["sha256"]:
                raise CheckpointError(f"checkpoint {path}: {name} has another sha256 than the manifest says")
        return int(manifest["step"])
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error


def folder_name(step: int) -> str:
    """Name of the folder of a step's checkpoint."""
    return f"step_{step:06d}"


def _write_manifest(folder: Path, step: int, score: float | None) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.iterdir())
    }
    manifest = {"step": step, "score": score, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in folder.iterdir():
        sync(path)
    sync(folder)


def _best(folder: Path) -> Path | None:
    """The checkpoint with the highest score, the newest of equals."""
    scores = {path: score for path in _checkpoint_folders(folder) if (score := _score(path)) is not None}
    return max(scores, key=lambda path: scores[path], default=None)


def _score(path: Path) -> float | None:
    """None where there is no checkpoint, where it has no score, or where its manifest is damaged."""
    try:
        score = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["score"]
    except (OSError, LookupError, TypeError, ValueError):
        return None
    return score if isinstance(score, int | float) else None


def _point_to(folder: Path, pointer: str, name: str) -> None:
    write_whole(folder / pointer, name + "\n")


def _checkpoint_folders(folder: Path) -> Iterator[Path]:
    """Newest first."""
    if folder.is_dir():
        yield from sorted((p for p in folder.glob("step_*") if ".tmp-" not in p.name), reverse=True)


def _name_again(folder: Path) -> None:
    """A kill between two renames, when a step is written again, leaves whole checkpoints without their name."""
    for leftover in folder.glob("step_*.tmp-*"):
        target = folder / leftover.name.split(".tmp-")[0]
        if not target.exists():
            with suppress(CheckpointError, OSError):  # never finished, or another rank was faster
                _verified_step(leftover)
                leftover.rename(target)


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.glob("step_*.tmp-*"):
        log.info("removing %s, which is no checkpoint any more, or never became one", leftover)
        shutil.rmtree(leftover)


def _free_bytes(folder: Path) -> int:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(existing).free


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
