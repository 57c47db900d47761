"""Replies by what was asked, on disk at once: a run that is stopped or killed asks for nothing twice."""

import json
import os
from pathlib import Path
from typing import Any


class ReplyCache:
    """Replies by the hash of model and messages: a JSON line each, readable by its owner."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._replies = _read_cache(path)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace")
        self._file.write("\n")  # a line that a kill cut short ends here

    def get(self, key: str) -> str | None:
        return self._replies.get(key)

    def add(self, key: str, reply: str) -> None:
        self._replies[key] = reply
        self._file.write(json.dumps({"key": key, "reply": reply}, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _read_cache(path: Path) -> dict[str, str]:
    replies: dict[str, str] = {}
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            entry: dict[str, Any] = json.loads(line)
            replies[entry["key"]] = entry["reply"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # cut short by a kill: its reply is asked for again
    return replies
