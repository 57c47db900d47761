"""`<run.directory>/<run.name>/`: the whole record of a run, private, held by one living run at a time.

runs/counselchat_cpu/        0700
  .lock                      pid and host of the run that holds it
  config.yaml                the run file as resolved by the last attempt
  data.sha256                of the data that it read
  split.json                 ids of the held-out rows, and which rows were kept on one side, and why
  logs/attempt_01/           one folder an attempt, with the config.yaml that it ran with
  sft/ reward_modeling/ …    one folder a stage: step_000020/ … + latest; result.json once it is finished;
                             trained_with.yaml, the run file of its last training
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rl_empathy.config.changes import Reopened
from rl_empathy.config.loading import dump_run_file
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.stage_table import folder_of, stage_of
from rl_empathy.errors import RunDirectoryError
from rl_empathy.observability.disk import disk_errors, write_whole
from rl_empathy.observability.earlier_attempts import (
    CONFIG,
    RESULT,
    TRAINED_WITH,
    config_before,
    set_aside_name,
    take_directory,
    what_is_reopened,
)
from rl_empathy.observability.run_lock import RunLock

DATA, SPLIT = "data.sha256", "split.json"


class RunDirectory:
    """The directory of a run that this process holds; made by `open`, given back by `close`.

    A stage whose folder has a `result.json` is finished, and a resume skips it.
    """

    def __init__(self, path: Path, run_file: RunFile, lock: RunLock, *, resumed: bool) -> None:
        self.path = path
        self.resumed = resumed
        """Whether an earlier attempt was here."""
        self.told: tuple[str, ...] = ()
        """What a changed configuration means for the stages that are there, a line each."""
        self._run_file, self._lock = run_file, lock
        before = [folder.name.removeprefix("attempt_") for folder in path.glob("logs/attempt_*")]
        self.attempt = max((int(number) for number in before if number.isdecimal()), default=0) + 1
        """Counts the starts of this run and of its policy trainer, from 1."""
        self.logs = self._log_folder()

    @classmethod
    def open(cls, run_file: RunFile, *, fresh: bool, allow_config_change: bool) -> Self:
        """Create the run's directory, or take over what an earlier attempt left there.

        The sections cluster, logging and serve, and run.directory, may differ from those of the earlier
        attempt: they say where and how it runs, not what is computed. With run.deterministic the number of
        workers and threads decides on bits, so there of cluster only address, deadlines and restarts may.

        Args:
            run_file: As `load_run_file` gives it, so with a name.
            fresh: Rename what is there to `<name>.set-aside-<UTC time>`, and begin anew.
            allow_config_change: Go on although the configuration is another one. A finished stage that is asked for
                more steps goes on from its last checkpoint; those that took its model are set aside and begun anew.

        Raises:
            RunDirectoryError: A living run holds the directory, the configuration differs or asks for a training that
                would not happen, the folder is something else, or the disk is full or read-only.
        """
        assert run_file.run.name is not None
        path = Path(run_file.run.directory).expanduser().absolute() / run_file.run.name
        with disk_errors(path):
            lock = take_directory(path, fresh=fresh)
            try:
                before = config_before(path, run_file, allow_config_change=allow_config_change)
                change = what_is_reopened(path, before, run_file) if before else Reopened()
                resumed = (path / CONFIG).exists()
                write_whole(path / CONFIG, dump_run_file(run_file))
                made = cls(path, run_file, lock, resumed=resumed)
                made._reopen(change)
            except BaseException:
                lock.release()
                raise
        return made

    def _reopen(self, change: Reopened) -> None:
        """In an order in which a kill at any moment leaves the same to be done."""
        self.told = change.told
        for stage in change.set_aside:
            folder = self._folder(stage)
            for name in stage_of(self._run_file, stage).files:
                if (self.path / name).exists():
                    (self.path / name).rename(folder / name)
            folder.rename(set_aside_name(folder))
        for stage in (*change.again, *change.goes_on):
            (self._folder(stage) / RESULT).unlink()

    def begin_stage(self, name: str) -> None:
        """Put down the run file with which a stage is trained from here on."""
        with disk_errors(self.path):
            write_whole(self.stage(name) / TRAINED_WITH, dump_run_file(self._run_file))

    @property
    def is_finished(self) -> bool:
        """Whether no stage is left to do, nor the model to be copied to `model/`."""
        stages = self._run_file.run.stages
        return all(self.stage_result(s) is not None for s in stages) and (self.path / "model").is_dir()

    def begin_attempt(self) -> None:
        """Count on: weights made from here on have other names, and logs go to a folder of their own."""
        with disk_errors(self.path):
            self.attempt += 1
            self.logs = self._log_folder()

    def _log_folder(self) -> Path:
        folder = self.path / "logs" / f"attempt_{self.attempt:02d}"
        folder.mkdir(parents=True)
        write_whole(folder / CONFIG, dump_run_file(self._run_file))
        return folder

    def require_same_data(self, sha256: str, source: str, *, allow_change: bool) -> None:
        """Refuse to go on with other rows: occurrences and batches would silently mean other prompts.

        Args:
            sha256: SHA-256 of the data as it is now.
            source: Its path or name.
            allow_change: Go on all the same, with the new data.

        Raises:
            RunDirectoryError: An earlier attempt read something else.
        """
        path = self.path / DATA
        with disk_errors(self.path):
            before = path.read_text(encoding="utf-8").strip() if path.exists() else sha256
            if before != sha256 and allow_change and self.is_finished:
                raise RunDirectoryError(
                    f"the data of run {self._run_file.run.name}, {source}, has changed since it was finished, and "
                    "nothing would be trained on it; begin anew with --fresh or under another run.name"
                )
            if before != sha256 and not allow_change:
                raise RunDirectoryError(
                    f"the data of run {self._run_file.run.name}, {source}, has changed since its last attempt "
                    f"(sha256 {before[:12]}… -> {sha256[:12]}…); start with --allow-config-change to go on with "
                    "the new rows, or with --fresh to begin anew"
                )
            write_whole(path, sha256 + "\n")

    def require_same_split(
        self, held_out: Sequence[str], kept_together: Sequence[tuple[str, str, str]], *, allow_change: bool
    ) -> None:
        """Put down which rows are held out, and which were kept on one side; refuse to go on with another split.

        Args:
            held_out: Ids of the rows.
            kept_together: Two ids, and what binds them.
            allow_change: Go on although an earlier attempt held out other rows.
        """
        held = {*held_out}
        links = [
            {"one": one, "other": other, "reason": reason, "side": "held_out" if one in held else "train"}
            for one, other, reason in kept_together
        ]
        text = json.dumps({"held_out": [*held_out], "kept_together": links}, indent=1, ensure_ascii=False)
        path = self.path / SPLIT
        with disk_errors(self.path):
            before = _held_out(path) if path.exists() else [*held_out]
            if before != [*held_out] and not allow_change:
                raise RunDirectoryError(
                    f"run {self._run_file.run.name} held out other prompts in its last attempt ({path}): another "
                    "version of this program splits the same data otherwise; go on with that version, begin anew with "
                    "--fresh, or start with --allow-config-change, which trains on rows that were held out"
                )
            write_whole(path, text + "\n")

    def stage(self, name: str) -> Path:
        """The folder of a stage, which exists; that of evaluate is called evaluation."""
        folder = self._folder(name)
        with disk_errors(self.path):
            folder.mkdir(exist_ok=True)
        return folder

    def stage_result(self, name: str) -> dict[str, Any] | None:
        """What a finished stage left; None when it has not finished.

        Raises:
            RunDirectoryError: Its file is damaged.
        """
        path = self._folder(name) / RESULT
        if not path.exists():
            return None
        with disk_errors(self.path):
            text = path.read_text(encoding="utf-8", errors="replace")
        try:
            result = json.loads(text)
        except ValueError:
            result = None
        if not isinstance(result, dict):
            raise RunDirectoryError(f"{path} is damaged; delete it, and the stage {name} runs again")
        return result

    def finish_stage(self, name: str, result: Mapping[str, Any]) -> None:
        """Put down that a stage is finished; from now on a resume skips it."""
        text = json.dumps(dict(result), indent=1, ensure_ascii=False) + "\n"
        with disk_errors(self.path):
            write_whole(self.stage(name) / RESULT, text)

    def summary(self) -> list[str]:
        """What is there, a line each: the attempt, every stage of the run, and the metrics."""
        stages = self._run_file.run.stages
        width = max(len(stage) for stage in stages) if stages else 0
        lines = [f"run {self._run_file.run.name}, attempt {self.attempt}, in {self.path}"]
        lines += [f"  {stage:{width}}  {self._state_of(stage)}" for stage in stages]
        metrics = self.path / "metrics.jsonl"
        count = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        return [*lines, f"  metrics.jsonl has {count:,} line{'' if count == 1 else 's'}"]

    def close(self) -> None:
        """Give the directory back; the lock ends with the process in any case."""
        self._lock.release()

    def _folder(self, stage: str) -> Path:
        return self.path / folder_of(stage)

    def _state_of(self, stage: str) -> str:
        folder = self._folder(stage)
        steps = sorted(path.name for path in folder.glob("step_*") if path.name[5:].isdecimal())
        pointer = folder / "latest"
        latest = f", latest {pointer.read_text(encoding='utf-8').strip()}" if pointer.exists() else ""
        checkpoints = f"checkpoints {' '.join(steps)}{latest}" if steps else ""
        if (folder / RESULT).exists():
            return "finished" + (f" ({checkpoints})" if steps else "")
        if steps:
            return f"goes on from its {checkpoints}"
        return "begins anew: no checkpoint" if folder.exists() else "not begun"


def _held_out(split: Path) -> list[str]:
    try:
        return list(json.loads(split.read_text(encoding="utf-8"))["held_out"])
    except (ValueError, LookupError, TypeError):
        raise RunDirectoryError(f"{split} is damaged; delete it, and it is written anew") from None
