"""The one process that talks to Weights & Biases: numbers in, nothing but numbers out."""

import json
import logging
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rl_empathy.observability.private_files import keep_files_private

log = logging.getLogger(__name__)

Mode = Literal["offline", "online", "disabled"]

_PRIVATE = (("data", "system_prompt"),)


class Tracker:
    """Owns the W&B run of a run; a resume goes on under the same id.

    Nothing that W&B does stops the run (its errors have no common base, hence `except Exception`): what it
    could not take is counted in `failures`, the first of them is the run's to announce (`problem`), and
    metrics.jsonl has every number in any case. The key comes from the environment variable WANDB_API_KEY.
    """

    def __init__(
        self,
        run_directory: str,
        name: str,
        project: str,
        mode: Mode,
        config: Mapping[str, Any],
        run_id: str | None = None,
        *,
        start_s: float = 30.0,
    ) -> None:
        """
        Args:
            run_directory: Holds the files, under wandb/.
            name: Name of the run.
            project: At W&B.
            mode: Files to be synced later, live, or nothing.
            config: The resolved run file as plain data; sent without data.system_prompt.
            run_id: Id of an earlier W&B run to go on with; read from wandb/run_id.txt when left out.
            start_s: Deadline for the server's first answer, seconds; then files are written instead.
        """
        keep_files_private()
        self.failures = 0
        """Calls that W&B did not take."""
        self._problem = ""
        self._folder = Path(run_directory) / "wandb"
        self._run: Any = None
        self._start_s = start_s
        if mode == "disabled":
            return
        if mode == "online" and not os.environ.get("WANDB_API_KEY"):
            self._failed("WANDB_API_KEY is not set in the environment; writing files to be synced later")
            mode = "offline"
        try:
            self.run_id = run_id or _kept_id(self._folder)
            self._run = self._started(name, project, mode, config)
        except Exception as error:
            self._failed(f"W&B did not start ({_first_line(error)})")
            if mode == "online":
                self._start_offline(name, project, config)

    def problem(self) -> str:
        """What W&B did not take first; "" when it took everything so far."""
        return self._problem

    def log(self, line: Mapping[str, Any]) -> None:
        """Take a line of metrics; what is not a finite number stays here."""
        numbers = {key: value for key, value in line.items() if key != "time" and _is_number(value)}
        if self._run is None or not numbers:
            return
        try:
            self._run.log(numbers)
        except Exception as error:
            self._failed(f"W&B did not take a line ({_first_line(error)})")

    def finish(self) -> str:
        """Write what is pending.

        Returns:
            The folder to give to `wandb sync`, with the files of every attempt; "" when nothing was recorded.
        """
        if self._run is None:
            return ""
        import wandb

        run, self._run = self._run, None
        try:
            run.finish()
            wandb.teardown()  # only now is everything in the file
        except Exception as error:
            self._failed(f"W&B did not finish ({_first_line(error)})")
        return str(self._folder)

    def _started(self, name: str, project: str, mode: Mode, config: Mapping[str, Any]) -> Any:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read at import
        import wandb

        run = wandb.init(
            project=project,
            name=name,
            id=self.run_id,
            dir=str(self._folder.parent),
            mode=mode,
            resume="allow",
            config=_public(config),
            settings=wandb.Settings(
                console="off",
                silent=True,
                init_timeout=self._start_s,
                save_code=False,
                disable_code=True,
                disable_git=True,
                x_disable_meta=True,  # command line, host and user name
                x_save_requirements=False,
            ),
        )
        run.define_metric("*", step_metric="step")
        return run

    def _start_offline(self, name: str, project: str, config: Mapping[str, Any]) -> None:
        import wandb

        try:
            wandb.teardown()  # its service keeps the id of a start that failed
            self._run = self._started(name, project, "offline", config)
        except Exception as error:
            self._failed(f"nor offline ({_first_line(error)})")

    def _failed(self, text: str) -> None:
        self.failures += 1
        self._problem = self._problem or text
        log.warning("%s", text)


def _kept_id(folder: Path) -> str:
    """The id of this run at W&B, made at its first attempt."""
    path = folder / "run_id.txt"
    if path.exists() and (kept := path.read_text(encoding="utf-8").strip()):
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    made = uuid.uuid4().hex[:12]
    path.write_text(made + "\n", encoding="utf-8")
    return made


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    public: dict[str, Any] = json.loads(json.dumps(config))
    for section, key in _PRIVATE:
        public.get(section, {}).pop(key, None)
    return public


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
