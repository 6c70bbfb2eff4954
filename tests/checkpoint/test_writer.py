"""Parts become files under the documented names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hftrain.checkpoint.contents import Part, document_part, files_part, model_part, rng_part, tree_part
from hftrain.checkpoint.storage import LocalStorage
from hftrain.checkpoint.writer import write_folder, write_parts
from hftrain.errors import CheckpointError, UnsafeCheckpointError

PARTS = [
    model_part({"w": torch.ones(3)}),
    tree_part("optimizer", {"a": torch.ones(2), "b": 1}),
    document_part("data", {"samples": 3}),
    files_part("config", {"config.json": b"{}", "nested/vocab.txt": b"a"}),
    rng_part({"cpu": torch.ones(1)}),
]


def written(tmp_path: Path, rank: int) -> set[str]:
    return set(write_parts(LocalStorage(), str(tmp_path), PARTS, rank=rank, max_shard_bytes=1 << 20))


def test_rank_zero_writes_all_parts_and_its_own_random_numbers(tmp_path: Path) -> None:
    assert written(tmp_path, 0) == {
        "model.safetensors",
        "optimizer.safetensors",
        "optimizer.json",
        "data.json",
        "config.json",
        "nested/vocab.txt",
        "rng-0.safetensors",
        "rng-0.json",
    }
    assert (tmp_path / "nested/vocab.txt").read_bytes() == b"a"


def test_another_rank_writes_only_what_each_rank_has(tmp_path: Path) -> None:
    assert written(tmp_path, 3) == {"rng-3.safetensors", "rng-3.json"}


@pytest.mark.parametrize(
    ("part", "message"),
    [(document_part("data", {}), r"would write data\.json"), (document_part("x", {"a": object()}), "'x'.*plain JSON")],
)
def test_a_part_that_cannot_be_written_is_named(part: Part, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        write_folder(str(tmp_path), [document_part("data", {}), part])


def test_a_part_cannot_write_outside_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UnsafeCheckpointError):
        write_folder(str(tmp_path / "in"), [files_part("x", {"../out": b""})])


def test_a_saved_model_replaces_an_earlier_one_of_other_shards(tmp_path: Path) -> None:
    write_folder(str(tmp_path), [model_part({"a": torch.ones(9), "b": torch.ones(9)})], max_shard_size=40)
    (tmp_path / "mine.txt").touch()
    assert write_folder(str(tmp_path), [model_part({"w": torch.ones(3)})]) == ["model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "model.safetensors"]
