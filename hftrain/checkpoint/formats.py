"""How tensors become files: safetensors, one of them or shards with an index.

The safetensors writer streams a tensor's own memory to the storage, so that saving copies nothing on the
CPU and one tensor at a time from a device; the reader believes nothing that a file says about itself.
Format: https://github.com/huggingface/safetensors (8 bytes of header length, JSON header, raw bytes).
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import torch
from torch import Tensor

from hftrain.checkpoint.layout import MAX_JSON_DEPTH, MODEL, MODEL_INDEX, dump_json, load_json, shard_name
from hftrain.checkpoint.storage import Repeatable
from hftrain.errors import CheckpointError, ConfigurationError, TornCheckpointError, UnsafeCheckpointError
from hftrain.types.state_fields import is_count

if TYPE_CHECKING:
    from typing_extensions import Buffer

SHARED = "hftrain.shared"
"""Key in a file's metadata: JSON, a name left out -> the name in this file that shares its memory."""

_DTYPE_NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
_DTYPES = {name: dtype for dtype, name in _DTYPE_NAMES.items()}
_MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library."""
_CHUNK_BYTES = 16 << 20
_UNITS = {"": 1, **{unit + "B": 1000**i for i, unit in enumerate("KMGT", 1)}} | {
    unit + "IB": 1024**i for i, unit in enumerate("KMGT", 1)
}


def safetensors_chunks(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[memoryview | bytes]:
    """The bytes of one safetensors file, header first, in pieces of at most 16 MiB.

    Raises:
        CheckpointError: a dtype or layout the format does not have.
    """
    # Largest items first keeps every tensor aligned; the library writes the same order.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name in names:
        tensor = tensors[name]
        if name == "__metadata__" or tensor.dtype not in _DTYPE_NAMES or tensor.layout != torch.strided:
            raise CheckpointError(
                f"The tensor {name!r} ({tensor.dtype}, {tensor.layout}) has no place in a safetensors file. "
                "Keep it in another dtype or layout, or out of the state that is saved."
            )
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    yield struct.pack("<Q", len(encoded)) + encoded
    for name in names:
        raw = _bytes_of(tensors[name].detach().cpu().contiguous())
        for start in range(0, len(raw), _CHUNK_BYTES):
            yield raw[start : start + _CHUNK_BYTES]


def read_safetensors(file: BinaryIO, num_bytes: int, *, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a file of ``num_bytes`` bytes that anyone may have written.

    Allocates no more than the file is long; each tensor has its own memory.

    Raises:
        UnsafeCheckpointError: the header contradicts itself or the file.
        TornCheckpointError: the file ends early.
    """
    length = struct.unpack("<Q", _read_exactly(file, 8, name=name))[0]
    if length > min(_MAX_HEADER_BYTES, num_bytes - 8):
        raise UnsafeCheckpointError(f"{name} has {num_bytes} bytes and claims a header of {length}.")
    header = load_json(_read_exactly(file, length, name=name), name=f"the header of {name}")
    if not isinstance(header, dict):
        raise UnsafeCheckpointError(f"The header of {name} is not a JSON object.")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UnsafeCheckpointError(f"The metadata of {name} is not a table of strings.")
    layouts = sorted((_layout(key, value, name=name) for key, value in header.items()), key=lambda it: it.span)
    offset = 0
    for layout in layouts:
        if layout.span[0] != offset:
            raise UnsafeCheckpointError(f"In {name} the bytes of {layout.name!r} overlap others, or leave a hole.")
        offset = layout.span[1]
    if offset != num_bytes - 8 - length:
        raise UnsafeCheckpointError(f"{name} has {num_bytes - 8 - length} bytes of tensors; its header says {offset}.")
    return {layout.name: _read_tensor(file, layout, name=name) for layout in layouts}, metadata


@dataclass(frozen=True, kw_only=True)
class _Layout:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    span: tuple[int, int]


def _layout(key: str, value: Any, *, name: str) -> _Layout:
    shape, span = (value.get("shape"), value.get("data_offsets")) if isinstance(value, dict) else (None, None)
    if not (
        isinstance(shape, list)
        and isinstance(span, list)
        and len(shape) <= MAX_JSON_DEPTH
        and len(span) == 2
        and all(is_count(number) and number < 1 << 48 for number in shape + span)
        and isinstance(value.get("dtype"), str)
    ):
        raise UnsafeCheckpointError(f"In {name} the entry of {key!r} is no tensor: {str(value)[:200]}.")
    dtype = _DTYPES.get(value["dtype"])
    if dtype is None:
        raise UnsafeCheckpointError(f"In {name} the tensor {key!r} has the unknown dtype {value['dtype'][:40]!r}.")
    if math.prod(shape) * dtype.itemsize != span[1] - span[0]:
        raise UnsafeCheckpointError(f"In {name} the tensor {key!r} of shape {shape} has {span[1] - span[0]} bytes.")
    return _Layout(name=key, dtype=dtype, shape=tuple(shape), span=(span[0], span[1]))


def _read_tensor(file: BinaryIO, layout: _Layout, *, name: str) -> Tensor:
    try:
        tensor = torch.empty(layout.shape, dtype=layout.dtype)
    except RuntimeError as error:  # an empty tensor whose other dimensions overflow
        raise UnsafeCheckpointError(f"In {name} the tensor {layout.name!r} has the shape {layout.shape}.") from error
    raw = _bytes_of(tensor)
    done = 0
    while done < len(raw):
        num_read = file.readinto(raw[done : done + _CHUNK_BYTES])  # type: ignore[attr-defined]
        if not num_read:
            raise TornCheckpointError(f"{name} ends inside the tensor {layout.name!r}.")
        done += num_read
    return tensor


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor, not a copy."""
    return memoryview(cast("Any", tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b"")


def _read_exactly(file: BinaryIO, num_bytes: int, *, name: str) -> bytes:
    data = file.read(num_bytes)
    if len(data) != num_bytes:
        raise TornCheckpointError(f"{name} ends early: {num_bytes} bytes expected, {len(data)} found.")
    return data


# ---------------------------------------------------------------------------------------------------------- model files


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A model as Hugging Face lays it out: one file, or shards and an index.

    Attributes:
        tensors: file name -> the tensors in it.
        shared: file name -> {a name left out: the name in this file that shares its memory}.
        index: the index's JSON; None for one file.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    shared: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    index: Mapping[str, Any] | None = None

    def files(self) -> Iterator[tuple[str, Iterable[Buffer]]]:
        """File name and bytes, the index last."""
        for name, tensors in self.tensors.items():
            shared = self.shared.get(name)
            metadata = {"format": "pt"} | ({SHARED: json.dumps(shared)} if shared else {})
            yield name, Repeatable(partial(safetensors_chunks, tensors, metadata))
        if self.index is not None:
            yield MODEL_INDEX, [dump_json(self.index, indent=2)]


def model_files(tensors: Mapping[str, Tensor], shared: Mapping[str, str], *, max_shard_bytes: int) -> ModelFiles:
    """Lay a model out in files of at most ``max_shard_bytes``; a larger tensor gets a file to itself."""
    shards = _split(tensors, max_shard_bytes)
    if len(shards) <= 1:
        return ModelFiles(tensors={MODEL: tensors}, shared={MODEL: shared})
    names = [shard_name(number, len(shards)) for number in range(1, len(shards) + 1)]
    weight_map = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
    aliases: dict[str, dict[str, str]] = {}
    for alias, kept in shared.items():
        aliases.setdefault(weight_map[kept], {})[alias] = kept
    return ModelFiles(
        tensors={name: {key: tensors[key] for key in keys} for name, keys in zip(names, shards, strict=True)},
        shared=aliases,
        index={"metadata": {"total_size": sum(map(_num_bytes, tensors.values()))}, "weight_map": weight_map},
    )


def shards_of_index(document: Any) -> list[str]:
    """The shard names in an index, each once, sorted. Raises UnsafeCheckpointError."""
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UnsafeCheckpointError(f"{MODEL_INDEX} holds no weight_map from tensor names to file names.")
    return sorted(set(weight_map.values()))


def shared_names(metadata: Mapping[str, str], tensors: Mapping[str, Tensor], *, name: str) -> dict[str, str]:
    """The names a file left out because their memory is another's. Raises UnsafeCheckpointError."""
    shared = load_json(metadata.get(SHARED, "{}").encode(), name=f"{SHARED} of {name}")
    if not isinstance(shared, dict) or any(
        alias in tensors or not isinstance(kept, str) or kept not in tensors for alias, kept in shared.items()
    ):
        raise UnsafeCheckpointError(f"In {name} the list of shared tensors names what is not there.")
    return shared


def parse_size(size: int | str) -> int:
    """Bytes of ``"5GB"`` (10**9), ``"512MiB"`` (2**20) or an int.

    Raises:
        ConfigurationError: not a positive size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(size))
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None or float(found[1]) * unit < 1:
        raise ConfigurationError(f'max_shard_size={size!r} is not a size. Set it like "5GB", "512MiB" or 1000000.')
    return int(float(found[1]) * unit)


def _split(tensors: Mapping[str, Tensor], max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = []
    used = 0
    for name, tensor in tensors.items():
        size = _num_bytes(tensor)
        if not shards or used + size > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
