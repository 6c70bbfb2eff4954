"""safetensors written and read by ourselves: the library agrees, and a hostile file gets nowhere."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from transformers.modeling_utils import load_sharded_checkpoint

from hftrain.checkpoint.formats import (
    model_files,
    parse_size,
    read_safetensors,
    safetensors_chunks,
    shards_of_index,
    shared_names,
)
from hftrain.errors import CheckpointError, ConfigurationError, TornCheckpointError, UnsafeCheckpointError

DTYPES = [torch.bool, torch.uint8, torch.int64, torch.uint32, torch.float16, torch.bfloat16, torch.float32]
DTYPES += [torch.float64, torch.complex64, torch.float8_e4m3fn]


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    return joined(safetensors_chunks(tensors, metadata or {}))


def joined(chunks: Iterable[Any]) -> bytes:
    return b"".join(bytes(chunk) for chunk in chunks)


def read(data: bytes) -> dict[str, Tensor]:
    return read_safetensors(io.BytesIO(data), len(data), name="x.safetensors")[0]


def file_of(header: Any, data: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_read_back_by_us_and_by_the_library(dtype: torch.dtype) -> None:
    tensors = {"b": torch.arange(6).reshape(2, 3).to(dtype), "a": torch.ones(()).to(dtype), "e": torch.empty(0, 4)}
    data = to_bytes(tensors)
    for back in (read(data), safetensors.torch.load(data)):
        assert back.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert back[name].dtype == tensor.dtype
            assert back[name].shape == tensor.shape
            assert back[name].tolist() == tensor.tolist()


def test_we_read_what_the_library_writes() -> None:
    tensors = {"x": torch.randn(3, 4), "y": torch.arange(3), "z": torch.tensor(True)}
    back = read(safetensors.torch.save(tensors, metadata={"format": "pt"}))
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_views_and_transposes_are_written_as_they_look() -> None:
    base = torch.arange(12.0).reshape(3, 4).requires_grad_()
    back = read(to_bytes({"transposed": base.t(), "slice": base[1:, ::2]}))
    assert torch.equal(back["transposed"], base.t())
    assert torch.equal(back["slice"], base[1:, ::2])


def test_the_memory_of_a_tensor_is_written_without_a_copy() -> None:
    tensor = torch.zeros(1000)
    _, raw = safetensors_chunks({"t": tensor}, {})
    tensor[0] = 1.0
    assert torch.frombuffer(raw, dtype=torch.float32)[0] == 1.0


def test_large_tensors_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hftrain.checkpoint.formats._CHUNK_BYTES", 16)
    tensor = torch.arange(10.0)
    assert len(list(safetensors_chunks({"t": tensor}, {}))) == 1 + 3
    assert torch.equal(read(to_bytes({"t": tensor}))["t"], tensor)


@pytest.mark.parametrize("tensor", [torch.ones(2, dtype=torch.complex128), torch.eye(2).to_sparse()], ids=["c", "s"])
def test_a_tensor_without_a_place_in_the_format_is_named(tensor: Tensor) -> None:
    with pytest.raises(CheckpointError, match="'odd'"):
        to_bytes({"odd": tensor})


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 99) + b"{}",
        file_of([]),
        file_of({"__metadata__": {"a": 1}}),
        file_of({"a": 1}),
        file_of({"a": ENTRY | {"shape": [3]}}, b"0" * 8),
        file_of({"a": ENTRY | {"shape": [-2]}}, b"0" * 8),
        file_of({"a": ENTRY | {"shape": [2.0]}}, b"0" * 8),
        file_of({"a": ENTRY | {"shape": [1] * 65 + [2]}}, b"0" * 8),
        file_of({"a": ENTRY | {"shape": [1 << 62], "data_offsets": [0, 1 << 62]}}, b"0" * 8),
        file_of({"a": ENTRY | {"shape": [1 << 40], "data_offsets": [0, 1 << 42]}}, b"0" * 8),
        file_of({"a": ENTRY | {"shape": [0, 1 << 47, 1 << 47], "data_offsets": [0, 0]}}),
        file_of({"a": ENTRY | {"dtype": "PICKLE"}}, b"0" * 8),
        file_of({"a": ENTRY | {"dtype": None}}, b"0" * 8),
        file_of({"a": ENTRY | {"data_offsets": [8, 16]}}, b"0" * 16),
        file_of({"a": ENTRY, "b": ENTRY}, b"0" * 8),
        file_of({"a": ENTRY}, b"0" * 9),
        file_of({"a": {"shape": [2], "data_offsets": [0, 8]}}, b"0" * 8),
        file_of(b"[" * 10_000),
    ],
    ids=range(19),
)
def test_a_header_that_contradicts_itself_or_the_file_is_unsafe(data: bytes) -> None:
    with pytest.raises(UnsafeCheckpointError, match="x.safetensors"):
        read(data)


@pytest.mark.parametrize("data", [b"", b"1234567", file_of(b"{")])
def test_a_file_that_ends_early_is_torn(data: bytes) -> None:
    with pytest.raises(TornCheckpointError, match="x.safetensors"):
        read(data)


def test_a_pickle_under_the_name_of_a_safetensors_file_is_not_loaded() -> None:
    with pytest.raises(UnsafeCheckpointError):
        read(b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.")


def test_a_small_model_is_one_file_as_the_library_writes_it() -> None:
    files = model_files({"w": torch.ones(2)}, {}, max_shard_bytes=100)
    assert [name for name, _ in files.files()] == ["model.safetensors"]


def test_a_large_model_is_shards_and_an_index_in_the_hub_layout() -> None:
    tensors = {name: torch.ones(4) for name in "abc"} | {"large": torch.ones(100)}
    files = model_files(tensors, {"alias": "large"}, max_shard_bytes=32)
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert [name for name, _ in files.files()] == [*names, "model.safetensors.index.json"]
    assert files.index == {
        "metadata": {"total_size": 448},
        "weight_map": {"a": names[0], "b": names[0], "c": names[1], "large": names[2]},
    }
    assert files.shared == {names[2]: {"alias": "large"}}


def test_shards_are_read_by_transformers(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    for name, chunks in model_files(model.state_dict(), {}, max_shard_bytes=64).files():
        (tmp_path / name).write_bytes(joined(chunks))
    fresh = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    load_sharded_checkpoint(fresh, str(tmp_path), strict=True, prefer_safe=True)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), fresh.parameters(), strict=True))


@pytest.mark.parametrize("index", [[], {}, {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": ["b"]}}])
def test_an_index_without_a_map_of_names_is_unsafe(index: Any) -> None:
    with pytest.raises(UnsafeCheckpointError):
        shards_of_index(index)


@pytest.mark.parametrize("text", ['{"b": "missing"}', '{"a": "a"}', '{"b": 1}', "[]"])
def test_shared_names_of_tensors_that_are_not_there_are_unsafe(text: str) -> None:
    with pytest.raises(UnsafeCheckpointError):
        shared_names({"hftrain.shared": text}, {"a": torch.ones(1)}, name="x")


@pytest.mark.parametrize(
    ("size", "num_bytes"),
    [("5GB", 5 * 10**9), ("200kb", 200_000), ("1.5 MiB", 3 << 19), ("2GiB", 2 << 30), (77, 77), ("1000", 1000)],
)
def test_sizes_are_read_with_their_units(size: str | int, num_bytes: int) -> None:
    assert parse_size(size) == num_bytes


@pytest.mark.parametrize("size", ["", "GB", "5XB", "-1", 0, "five"])
def test_what_is_no_size_is_an_error_that_shows_how(size: str | int) -> None:
    with pytest.raises(ConfigurationError, match="5GB"):
        parse_size(size)
