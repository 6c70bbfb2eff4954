"""Four verbs, on a disk and on an fsspec URL."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path

import pytest

from hftrain.checkpoint.storage import (
    Entry,
    LocalStorage,
    folder_of,
    is_same_path,
    join,
    plain_path,
    storage_for,
    walk,
)
from hftrain.errors import ConfigurationError, UnsafeCheckpointError
from tests.checkpoint import failing  # noqa: F401 (makes the protocol known)
from tests.checkpoint.s3 import new_bucket


@pytest.fixture(params=["local", "memory", "failing", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    bases = {"local": str(tmp_path), "memory": f"memory://{uuid.uuid4().hex}", "failing": f"failing://{tmp_path}/base"}
    return bases[request.param] if request.param in bases else new_bucket()


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


def test_a_name_that_another_begins_with_or_that_looks_like_a_pattern_is_that_name(base: str) -> None:
    storage = storage_for(base)
    for name in ("run/checkpoint-1/a", "run/checkpoint-10/a", "run/checkpoint-[1]/a", "run/checkpoint-*/a"):
        storage.write(join(base, name), [b"1"])
    storage.delete(join(base, "run/checkpoint-*"))
    storage.delete(join(base, "run/checkpoint-1"))
    storage.delete(join(base, "run/checkpoint-[1]"))
    assert [path for path, _ in walk(storage, join(base, "run"))] == ["checkpoint-10/a"]


def test_what_was_written_over_is_read_as_it_is_now(base: str) -> None:
    storage, other = storage_for(base), storage_for(base)
    storage.write(join(base, "run/file"), [b"12345"])
    assert storage.list(join(base, "run"))[0].num_bytes == 5
    other.write(join(base, "run/file"), [b"1234567"])
    assert storage.list(join(base, "run"))[0].num_bytes == 7
    with storage.read(join(base, "run/file")) as file:
        assert file.read() == b"1234567"


def test_the_root_of_a_filesystem_is_a_folder_too() -> None:
    name = uuid.uuid4().hex
    storage = storage_for("memory://")
    storage.write(join("memory://", name), [b"1"])
    assert folder_of(join("memory://", name)) == "memory://"
    assert name in [entry.name for entry in storage.list("memory://")]
    storage.delete(join("memory://", name))


@pytest.mark.parametrize("url", ["nosuch://bucket/run", "simplecache::memory://bucket/run", "gs://bucket/run"])
def test_a_url_that_nothing_here_can_use_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Protocol not known|chains filesystems|pip install gcsfs"):
        storage_for(url)


def test_a_url_that_went_through_pathlib_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Give the URL as a string"):
        plain_path(Path("s3://bucket/run"))


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
    [
        ("out/", "out"),
        ("s3://bucket/run/", "s3://bucket/run"),
        ("file:///tmp/x", "/tmp/x"),
        ("/", "/"),
        ("o", "o"),
        ("local:///t/x", "/t/x"),
    ]
    + [("memory://", "memory://"), ("s3://bucket/", "s3://bucket")],
)
def test_paths_are_strings_without_a_slash_at_the_end(given: str, plain: str) -> None:
    assert plain_path(given) == plain


def test_paths_are_the_same_through_links_and_relative_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    assert is_same_path("link", f"{tmp_path}/run")
    assert not is_same_path("memory://a", "memory://b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_keeps_neither_a_reader_nor_a_writer_waiting_for_its_other_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with LocalStorage().read(f"{tmp_path}/pipe") as file:
        assert file.read() == b""
    assert LocalStorage().write(f"{tmp_path}/pipe", [b"data"]).num_bytes == 4
    assert (tmp_path / "pipe").is_file()
