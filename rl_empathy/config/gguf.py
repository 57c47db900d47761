"""The header of a GGUF file (version 2 or 3): what it says of the model, read without the tensors."""

import math
import mmap
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from rl_empathy.errors import ConfigError

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class GgufHeader(NamedTuple):
    """What the header says."""

    values: dict[str, Any]
    """Those of the wanted entries that are there."""
    shapes: dict[str, tuple[int, ...]]
    """The shape of every tensor by its name, the innermost length first."""

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(map(math.prod, self.shapes.values()))


def gguf_header(path: Path, wanted: Collection[str] = ()) -> GgufHeader:
    """Read the header of a GGUF file.

    Args:
        path: The file.
        wanted: Names of the entries whose values are given; the others are passed over.

    Raises:
        ConfigError: The file is no whole GGUF file.
    """
    damaged = ConfigError(f"model.path: {path} is not a whole GGUF file of version 2 or 3")
    if path.stat().st_size < 24:
        raise damaged
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        magic, version, num_tensors, num_entries = struct.unpack_from("<4sIQQ", content)
        if magic != b"GGUF" or version not in (2, 3):
            raise damaged
        reader = _Reader(content, 24)
        try:
            values = {}
            for _ in range(num_entries):
                name = reader.string()
                value = reader.value(reader.number("I"), keep=name in wanted)
                if name in wanted:
                    values[name] = value
            return GgufHeader(values, dict(reader.tensor() for _ in range(num_tensors)))
        except (struct.error, KeyError, UnicodeDecodeError):
            raise damaged from None


class _Reader:
    """Reads on from a place in the file."""

    def __init__(self, content: mmap.mmap, at: int) -> None:
        self._content, self._at = content, at

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(f"<{form}", self._content, self._at)
        self._at += struct.calcsize(f"<{form}")
        return value

    def string(self, *, keep: bool = True) -> str:
        length = self.number("Q")
        self._at += length
        return self._content[self._at - length : self._at].decode() if keep else ""

    def value(self, kind: int, *, keep: bool) -> Any:
        if kind == _STRING:
            return self.string(keep=keep)
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        inner, length = self.number("I"), self.number("Q")
        if inner in _SCALARS and not keep:
            self._at += length * struct.calcsize(f"<{_SCALARS[inner]}")
            return None
        found = [self.value(inner, keep=keep) for _ in range(length)]
        return found if keep else None

    def tensor(self) -> tuple[str, tuple[int, ...]]:
        """A tensor's name and shape."""
        name, rank = self.string(), self.number("I")
        shape = struct.unpack_from(f"<{rank}Q", self._content, self._at)
        self._at += 8 * rank + 12  # shape, then type and offset
        return name, shape
