"""Copies are whole, independent of what they were made of, and lie in memory that is used again."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from hftrain.checkpoint.contents import Part, document_part, files_part, model_part, rng_part, tree_part
from hftrain.checkpoint.staging import HostBuffers, StagedParts
from hftrain.checkpoint.storage import LocalStorage
from hftrain.checkpoint.writer import write_parts
from hftrain.errors import CheckpointError


def staged(buffers: HostBuffers, parts: list[Part], rank: int = 0) -> StagedParts:
    copies = StagedParts(buffers, rank=rank, max_shard_bytes=1 << 20)
    copies.add(parts)
    copies.end()
    return copies


def test_what_is_written_is_what_was_copied_whatever_happens_to_the_originals(tmp_path: Path) -> None:
    weight, rows, document = torch.arange(6.0).reshape(2, 3).T, [1], {"a": 1}
    parts = [
        model_part({"w": weight, "tied": weight, "step": torch.tensor(3)}),
        tree_part("optimizer", {"rows": rows, "average": torch.ones(2, dtype=torch.bfloat16)}),
        document_part("data", document),
        files_part("config", {"config.json": b"{}"}),
        rng_part({"cpu": torch.ones(1)}),
    ]
    write_parts(LocalStorage(), str(tmp_path / "at once"), parts, rank=0, max_shard_bytes=1 << 20)
    copies = staged(HostBuffers(), parts)
    weight.zero_()
    document["a"] = 2
    write_parts(LocalStorage(), str(tmp_path / "later"), copies.parts, rank=0, max_shard_bytes=1 << 20)
    names = sorted(path.name for path in (tmp_path / "at once").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "later").iterdir())
    for name in names:
        assert (tmp_path / "later" / name).read_bytes() == (tmp_path / "at once" / name).read_bytes()


def test_the_next_copies_lie_in_the_same_memory() -> None:
    buffers = HostBuffers()
    first = staged(buffers, [model_part({"w": torch.ones(4)})]).parts[0].tensors["w"]
    second = staged(buffers, [model_part({"w": torch.zeros(4)})]).parts[0].tensors["w"]
    assert first.data_ptr() == second.data_ptr()
    assert buffers.num_bytes == 16


def reserved(buffers: HostBuffers) -> list[int]:
    while buffers._reserving is not None and buffers._reserving.is_alive():
        buffers._reserving.join()
    return [buffer.data_ptr() for ones in buffers._reserve.values() for buffer in ones]


def test_copies_lie_in_memory_that_was_reserved_for_their_like() -> None:
    buffers, tensors = HostBuffers(), {"w": torch.ones(200, 200), "v": torch.ones(200, 200), "other": torch.ones(40000)}
    buffers.reserve([*tensors.values(), tensors["w"]])
    places, held = reserved(buffers), buffers.num_bytes
    copies = staged(buffers, [model_part(tensors)]).parts[0].tensors
    assert {copy.data_ptr() for copy in copies.values()} == set(places)
    assert all(torch.equal(copies[name], tensors[name]) for name in tensors)
    assert held == buffers.num_bytes == 3 * 160_000


def test_what_was_reserved_for_nothing_is_given_back() -> None:
    buffers = HostBuffers()
    buffers.reserve([torch.ones(200, 200)])
    assert len(reserved(buffers)) == 1
    staged(buffers, [model_part({"w": torch.ones(4)})])
    assert buffers.num_bytes == 16


def test_a_save_does_not_wait_for_all_of_the_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers, is_asked = HostBuffers(), threading.Event()

    def touch(buffer: torch.Tensor) -> None:
        is_asked.set()
        buffers._is_enough.wait()

    monkeypatch.setattr(buffers, "_touch", touch)
    buffers.reserve([torch.ones(200, 200), torch.ones(300, 300)])
    is_asked.wait()
    copies = staged(buffers, [model_part({"w": torch.ones(200, 200), "v": torch.full((300, 300), 2.0)})])
    assert {name: float(tensor.mean()) for name, tensor in copies.parts[0].tensors.items()} == {"w": 1.0, "v": 2.0}


def test_nothing_is_reserved_where_copies_are_held_already() -> None:
    buffers = HostBuffers()
    staged(buffers, [model_part({"w": torch.ones(4)})])
    buffers.reserve([torch.ones(200, 200)])
    assert reserved(buffers) == []
    assert buffers.num_bytes == 16


def test_memory_of_what_is_no_longer_there_is_given_back() -> None:
    buffers = HostBuffers()
    staged(buffers, [model_part({"w": torch.ones(4), "v": torch.ones(100)})])
    staged(buffers, [model_part({"w": torch.ones(8)})])
    assert buffers.num_bytes == 32


def test_another_rank_copies_only_what_each_rank_has() -> None:
    buffers = HostBuffers()
    copies = staged(buffers, [model_part({"w": torch.ones(4)}), rng_part({"cpu": torch.ones(1)})], rank=2)
    assert [part.name for part in copies.parts] == ["rng"]
    assert set(copies.parts[0].files) == {"rng-2.json"}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (document_part("data", {}), r"would write data\.json"),
        (document_part("x", {"a": object()}), "'x'.*plain JSON"),
        (model_part({"w": torch.eye(2).to_sparse()}), "'w'.*has no place in a safetensors file"),
    ],
)
def test_what_cannot_be_written_is_named_while_it_is_copied(part: Part, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        staged(HostBuffers(), [document_part("data", {}), part])
