"""Four verbs, on a disk and on an fsspec URL."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path

import pytest

from hftrain.checkpoint.storage import Entry, LocalStorage, is_same_path, join, plain_path, storage_for, walk
from hftrain.errors import UnsafeCheckpointError


@pytest.fixture(params=["local", "memory"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def test_what_is_written_is_read_back_and_summed_up(base: str) -> None:
    storage = storage_for(base)
    written = storage.write(join(base, "a/b/data"), [b"x" * 100, memoryview(b"y" * 200_000)])
    data = b"x" * 100 + b"y" * 200_000
    assert (written.num_bytes, written.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    with storage.read(join(base, "a/b/data")) as file:
        assert file.read() == data


def test_list_names_files_with_their_sizes_and_folders(base: str) -> None:
    storage = storage_for(base)
    storage.write(join(base, "run/file"), [b"12345"])
    storage.write(join(base, "run/sub/other"), [b""])
    assert storage.list(join(base, "run")) == (
        Entry(name="file", kind="file", num_bytes=5),
        Entry(name="sub", kind="folder"),
    )
    assert sorted(path for path, _ in walk(storage, join(base, "run"))) == ["file", "sub/other"]


def test_a_folder_that_is_not_there_lists_nothing_and_deletes_quietly(base: str) -> None:
    storage = storage_for(base)
    storage.delete(join(base, "nowhere"))
    assert storage.list(join(base, "nowhere")) == ()


def test_delete_removes_a_file_or_a_whole_folder(base: str) -> None:
    storage = storage_for(base)
    for name in ("run/a", "run/b/c", "run/b/d"):
        storage.write(join(base, name), [b"1"])
    storage.delete(join(base, "run/a"))
    storage.delete(join(base, "run/b"))
    assert not list(walk(storage, join(base, "run")))


def test_a_missing_file_cannot_be_read(base: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage_for(base).read(join(base, "nothing"))


def test_file_and_folder_reach_the_disk_before_write_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    LocalStorage().write(f"{tmp_path}/new/file", [b"1"])
    assert synced == [str(tmp_path), f"{tmp_path}/new/file", f"{tmp_path}/new"]


def test_links_are_listed_as_other_never_followed_and_deleted_without_their_target(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/link").symlink_to(tmp_path / "target")
    storage = LocalStorage()
    assert storage.list(f"{tmp_path}/run")[0].kind == "other"
    with pytest.raises(OSError, match="symbolic"):
        storage.read(f"{tmp_path}/run/link")
    storage.delete(f"{tmp_path}/run/link")
    assert (tmp_path / "target").read_bytes() == b"precious"


def test_a_folder_of_too_many_files_is_refused(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / str(number)).touch()
    with pytest.raises(UnsafeCheckpointError, match="more than 3 files"):
        list(walk(LocalStorage(), str(tmp_path), max_files=3))


@pytest.mark.parametrize(
    ("given", "plain"),
    [("out/", "out"), ("s3://bucket/run/", "s3://bucket/run"), ("file:///tmp/x", "/tmp/x"), ("/", "/"), ("o", "o")],
)
def test_paths_are_strings_without_a_slash_at_the_end(given: str, plain: str) -> None:
    assert plain_path(given) == plain


def test_paths_are_the_same_through_links_and_relative_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    assert is_same_path("link", f"{tmp_path}/run")
    assert not is_same_path("memory://a", "memory://b")
