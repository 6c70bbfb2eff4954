"""A disk that has so many bytes and then no more."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hftrain.checkpoint.storage import LocalStorage, Written


@dataclass
class FullDisk(LocalStorage):
    """Holds ``room`` bytes of files under ``root``; what is over is refused in the middle of its file.

    Attributes:
        room: bytes; None for a disk without an end.
        code: what it says when it is full.
        refused: the names of the files that it refused.
    """

    root: str
    room: int | None = None
    code: int = errno.ENOSPC
    refused: list[str] = field(default_factory=list)

    @property
    def used(self) -> int:
        """Bytes of what lies there."""
        return sum(path.stat().st_size for path in Path(self.root).rglob("*") if path.is_file())

    def write(self, path: str, chunks: Iterable[Any]) -> Written:
        return super().write(path, self._counted(path, chunks))

    def _counted(self, path: str, chunks: Iterable[Any]) -> Iterable[Any]:
        free = None if self.room is None else self.room - self.used
        for chunk in chunks:
            raw = memoryview(chunk).cast("B")
            if free is not None and len(raw) > free:
                yield raw[: max(free, 0)]
                self.refused.append(os.path.basename(path))
                raise OSError(self.code, os.strerror(self.code))
            free = None if free is None else free - len(raw)
            yield chunk
