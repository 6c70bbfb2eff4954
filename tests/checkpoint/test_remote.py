"""What is particular to object stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from hftrain.checkpoint.storage import storage_for
from hftrain.cli.main import main
from tests.checkpoint import s3
from tests.trainer.tasks import trainer

PIECE = bytes(4 << 20)


@pytest.fixture
def bucket() -> str:
    return s3.new_bucket()


def test_a_large_object_is_uploaded_in_parts(bucket: str) -> None:
    assert storage_for(bucket).write(f"{bucket}/large", [PIECE] * 4).num_bytes == 16 << 20
    assert storage_for(bucket).list(bucket)[0].num_bytes == 16 << 20


def test_an_upload_that_fails_halfway_leaves_no_object_and_no_parts(bucket: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield from [PIECE] * 4
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage_for(bucket).write(f"{bucket}/large", pieces())
    assert storage_for(bucket).list(bucket) == ()
    assert not fsspec.filesystem("s3").list_multipart_uploads(bucket.removeprefix("s3://"))


def test_a_bucket_that_is_not_there_is_not_made(bucket: str, tmp_path: Path) -> None:
    ours = trainer(f"{bucket}-2/run", save_strategy="steps", save_steps=4)
    with pytest.raises(ValueError, match=r"cannot be written: .*bucket does not exist"):
        ours.train()
    assert not fsspec.filesystem("s3").exists(f"{bucket}-2")


def test_an_object_named_as_the_folder_is_not_in_it(bucket: str) -> None:
    storage = storage_for(bucket)
    fsspec.filesystem("s3").call_s3("put_object", Bucket=bucket.removeprefix("s3://"), Key="run/", Body=b"")
    storage.write(f"{bucket}/run/file", [b"1"])
    assert [entry.name for entry in storage.list(f"{bucket}/run")] == ["file"]


def test_the_command_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "list", "gs://bucket/run"]) == 2
    assert "pip install gcsfs" in capsys.readouterr().err
