"""Files reach the disk whole, whichever way their filesystem takes them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from hftrain.checkpoint.disk import PIECE_BYTES, DiskFile

SIZES = [0, 1, 5000, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 4097, 2 * PIECE_BYTES + 3]


def numbered(num_bytes: int) -> bytes:
    return bytes(range(251)) * (num_bytes // 251) + bytes(range(num_bytes % 251))


def write(path: Path, data: bytes, chunk_bytes: int) -> None:
    with DiskFile(str(path)) as file:
        for start in range(0, len(data), chunk_bytes):
            file.write(memoryview(data)[start : start + chunk_bytes])
        file.flush()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunk_bytes", [1 << 20, 3_000_001, 16 << 20])
def test_what_was_written_is_there(tmp_path: Path, size: int, chunk_bytes: int) -> None:
    data = numbered(size)
    write(tmp_path / "file", data, chunk_bytes)
    assert (tmp_path / "file").read_bytes() == data


def test_a_longer_file_in_its_place_is_gone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    write(tmp_path / "file", b"12", 2)
    assert (tmp_path / "file").read_bytes() == b"12"


def test_a_filesystem_that_needs_its_cache_gets_everything_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    os_write, refused = os.write, []

    def write_as_told(descriptor: int, data: Any) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0):
            refused.append(descriptor)
            raise OSError(errno.EINVAL, "Invalid argument")
        return os_write(descriptor, data)

    monkeypatch.setattr(os, "write", write_as_told)
    data = numbered(PIECE_BYTES + 10)
    write(tmp_path / "file", data, 1 << 20)
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == data
    assert len(refused) <= 1  # none where the temporary folder's filesystem does not know the flag


def test_a_disk_that_takes_a_part_gets_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os_write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: os_write(descriptor, data[: max(1, len(data) // 3)]))
    data = numbered(PIECE_BYTES + 10)
    write(tmp_path / "file", data, 1 << 20)
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == data


def test_a_disk_that_is_full_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "file", numbered(PIECE_BYTES), 1 << 20)
