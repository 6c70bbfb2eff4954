"""Disks that have so many bytes and then no more: one that says so, and a real one."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

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


@contextmanager
def small_disk(folder: Path, *, num_bytes: int, options: str = "") -> Iterator[Path]:
    """Mount a file system of so many bytes at a folder; skips the test where that is not allowed."""
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}{options}", "tmpfs", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
