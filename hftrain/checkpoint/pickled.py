"""Reading what ``torch.save`` wrote, whoever wrote it: tensors, numpy's arrays and plain data.

torch's weights-only unpickler builds them. This module narrows what a pickle may name to what a trainer's files are
made of, and sees to what the unpickler leaves open: how much memory a pickle may ask for. While it is read no tensor
has memory and no array is one; afterwards each that was reached gets the bytes of its record, which must be there.
"""

from __future__ import annotations

import io
import math
import sys
import threading
import warnings
import zipfile
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from hftrain.checkpoint.pickle_grammar import check_pickle
from hftrain.errors import CheckpointError, TornCheckpointError, UnsafeCheckpointError
from hftrain.types.state_fields import is_count

MAX_PICKLE_BYTES = 16 << 20
"""Of ``data.pkl``, which says what there is: some 150 bytes a tensor."""
MAX_DIRECTORY_BYTES = 16 << 20
"""Of the list of entries at an archive's end: some 75 bytes a tensor."""
_MAX_DEPTH = 64
_NODES_PER_BYTE = 4
"""A value is at least one byte of a pickle; one may be named more than once, though not without end."""
_CHUNK_BYTES = 16 << 20
_END_BYTES, _LOCATOR_BYTES, _END64_BYTES = 22, 20, 56
_ARRAY_CODES = {"b1"} | {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f2", "f4", "f8"}

_STORAGE: Any = torch.UntypedStorage
_TYPED_STORAGE: Any = torch.storage.TypedStorage  # torch has no types for either

_LOCK = threading.Lock()
"""torch keeps the names that its unpickler may know for the whole process."""


def load_pickled(file: BinaryIO, num_bytes: int, *, name: str) -> Any:
    """What ``torch.save`` wrote: tensors, on the CPU, numpy arrays and plain data. Nothing in it is called.

    Args:
        file: can seek.
        num_bytes: how long it is.
        name: for messages.

    Raises:
        UnsafeCheckpointError: it holds anything else, or unpacks to more than its size.
        TornCheckpointError: it is no file of ``torch.save``, or not whole.
    """
    try:
        return _Load(_open_archive(file, num_bytes, name=name), name=name).run()
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise TornCheckpointError(f"{name} is not a whole file of torch.save: {error}.") from error
    except Exception as error:  # the unpickler raises whatever a broken pickle leads to
        text = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise UnsafeCheckpointError(
            f"{name} holds more than tensors, arrays and plain data, or is broken, and was not loaded: {text}"
        ) from error


def _open_archive(file: BinaryIO, num_bytes: int, *, name: str) -> zipfile.ZipFile:
    """Open it if it is as torch writes it: entries not compressed, each name once, nothing behind the end."""
    if _directory_bytes(file, num_bytes) > MAX_DIRECTORY_BYTES:
        raise UnsafeCheckpointError(f"{name} lists more entries than a file of torch.save has.")
    archive = zipfile.ZipFile(file)
    entries = archive.infolist()
    is_compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if is_compressed or sum(entry.file_size for entry in entries) > num_bytes:
        raise UnsafeCheckpointError(f"{name} is compressed, which torch.save does not do: it may unpack to any size.")
    if len(archive.NameToInfo) != len(entries):
        raise UnsafeCheckpointError(f"{name} has two entries of one name, which torch.save does not do.")
    return archive


def _directory_bytes(file: BinaryIO, num_bytes: int) -> int:
    """How long the list of entries says it is, read before the list. Raises BadZipFile if no archive ends here."""
    file.seek(max(0, num_bytes - _END_BYTES - _LOCATOR_BYTES))
    tail = file.read(_END_BYTES + _LOCATOR_BYTES)
    locator, end = tail[:-_END_BYTES], tail[-_END_BYTES:]
    if end[:4] != b"PK\x05\x06":
        raise zipfile.BadZipFile("it does not end as one")
    size = int.from_bytes(end[12:16], "little")
    if locator[:4] == b"PK\x06\x07":  # the same again in 64 bits, which counts then
        file.seek(max(0, num_bytes - _END_BYTES - _LOCATOR_BYTES - _END64_BYTES))
        size = max(size if size != 0xFFFFFFFF else 0, int.from_bytes(file.read(_END64_BYTES)[40:48], "little"))
    return size


# ---- what stands for numpy while the pickle is read -----------------------------------------------------------------


class _Array:
    """Stands for ``numpy.ndarray``: it keeps what would be an array's state."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _DType:
    """Stands for ``numpy.dtype``."""

    code: Any = None
    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _new_array(kind: Any, shape: Any, code: Any) -> _Array:
    """Stands for what makes an empty array; numpy's pickles give shape and content with the state."""
    return _Array()


def _new_dtype(code: Any, align: Any = False, copy: Any = True) -> _DType:
    dtype = _DType()
    dtype.code = code
    return dtype


_ARRAY_GLOBALS: list[Any] = [
    # numpy moved it in its second version; a file has the name that its writer's numpy had.
    (_new_array, "numpy.core.multiarray._reconstruct"),
    (_new_array, "numpy._core.multiarray._reconstruct"),
    (_Array, "numpy.ndarray"),
    (_new_dtype, "numpy.dtype"),
    _DType,  # a type of dtype; torch sets the state of known types only
]
"""What a pickled array is made of: four globals of numpy, one of them under two names."""


def _array(node: _Array) -> Any:
    _, shape, dtype, is_fortran, data = node.state
    if not (isinstance(shape, tuple) and all(map(is_count, shape)) and isinstance(data, bytes)):
        raise ValueError("an array has no shape or no bytes")
    if type(dtype) is not _DType or dtype.code not in _ARRAY_CODES:
        raise ValueError("an array is not of numbers")
    order = dtype.state[1] if isinstance(dtype.state, tuple) and dtype.state[1:2] in (("<",), (">",)) else "="
    numbers = np.frombuffer(data, np.dtype(dtype.code).newbyteorder(order))
    if math.prod(shape) != numbers.size:
        raise ValueError(f"an array of shape {shape} has {len(data)} bytes")
    return numbers.astype(dtype.code).reshape(shape, order="F" if is_fortran else "C")


# ---- one file -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Record:
    """A storage that the pickle names: without memory, and where its bytes are."""

    entry: str
    num_bytes: int
    empty: torch.UntypedStorage


class _Load:
    def __init__(self, archive: zipfile.ZipFile, *, name: str) -> None:
        self._archive = archive
        self._name = name
        self._records: dict[str, _Record] = {}
        self._filled_storages: dict[str, torch.UntypedStorage] = {}
        self._nodes_left = 0

    def run(self) -> Any:
        pickles = [entry for entry in self._archive.namelist() if entry.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise zipfile.BadZipFile("it has no data.pkl, or several")
        self._root = pickles[0].removesuffix("/data.pkl")
        data = self._small(pickles[0], MAX_PICKLE_BYTES)
        if f"{self._root}/byteorder" in self._archive.NameToInfo:
            order = self._small(f"{self._root}/byteorder", 6).decode("ascii")
            if order != sys.byteorder:
                raise ValueError(f"its numbers are {order[:6]}-endian, and this machine's are {sys.byteorder}-endian")
        check_pickle(data)
        tree = self._unpickle(data)
        for record in self._records.values():
            if record.empty.nbytes() != record.num_bytes:  # torch lets a storage grow under a tensor
                raise ValueError("a tensor is larger than its memory")
        self._record_of = {record.empty._cdata: record for record in self._records.values()}
        self._nodes_left = _NODES_PER_BYTE * len(data) + 1000
        return self._filled(tree, 0)

    def _small(self, entry: str, max_bytes: int) -> bytes:
        info = self._archive.getinfo(entry)
        if info.file_size > max_bytes:
            raise ValueError(f"{entry} has {info.file_size} bytes, and at most {max_bytes} are read")
        return self._archive.read(info)

    def _unpickle(self, data: bytes) -> Any:
        # Below torch.load, which gives each tensor its memory, as much as the pickle asks for, while it is read.
        from torch._weights_only_unpickler import Unpickler

        unpickler: Any = Unpickler(io.BytesIO(data), encoding="utf-8")
        unpickler.persistent_load = self._storage
        serialization = torch.serialization
        with _LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol
            others = serialization.get_safe_globals()
            serialization.clear_safe_globals()
            serialization.add_safe_globals(_ARRAY_GLOBALS)
            try:
                return unpickler.load()
            finally:
                serialization.clear_safe_globals()
                serialization.add_safe_globals(others)

    def _storage(self, saved: Any) -> Any:
        """A storage without memory for one that the pickle names; its record must have just its bytes."""
        _, kind, key, _, count = saved
        entry = f"{self._root}/data/{key}"
        num_bytes = count * kind.dtype.itemsize
        if num_bytes != self._archive.getinfo(entry).file_size:
            raise ValueError(f"{entry} has another size than the pickle says")
        if entry not in self._records:
            empty = _STORAGE(num_bytes, device="meta")
            self._records[entry] = _Record(entry=entry, num_bytes=num_bytes, empty=empty)
        wrapped = self._records[entry].empty
        return _TYPED_STORAGE(wrap_storage=wrapped, dtype=kind.dtype, _internal=True)

    def _filled(self, node: Any, depth: int) -> Any:
        """The tree with tensors and arrays in the place of what stands for them."""
        self._nodes_left -= 1
        if depth > _MAX_DEPTH or self._nodes_left < 0:
            raise ValueError("it is nested deeper, or holds one thing more often, than any state does")
        if node is None or type(node) in (bool, int, float, str, bytes):
            return node
        if type(node) in (list, tuple):
            return type(node)(self._filled(item, depth + 1) for item in node)
        if type(node) in (dict, OrderedDict, Counter):
            pairs = {self._filled(key, depth + 1): self._filled(value, depth + 1) for key, value in node.items()}
            return type(node)(pairs)
        if type(node) is Tensor:
            return self._tensor(node)
        if type(node) is _Array:
            return _array(node)
        raise ValueError(f"it holds a {type(node).__name__}")

    def _tensor(self, node: Tensor) -> Tensor:
        if not node.numel():
            return torch.empty(node.shape, dtype=node.dtype)
        record = self._record_of.get(node.untyped_storage()._cdata)
        # A tensor may repeat its memory, and would be of any size once something copies it.
        if record is None or node.numel() * node.element_size() > record.num_bytes or node.is_neg() or node.is_conj():
            raise ValueError("a tensor is not made of its record")
        if record.entry not in self._filled_storages:
            self._filled_storages[record.entry] = self._bytes_of(record)
        tensor = torch.empty(0, dtype=node.dtype)
        return tensor.set_(self._filled_storages[record.entry], node.storage_offset(), node.shape, node.stride())

    def _bytes_of(self, record: _Record) -> torch.UntypedStorage:
        tensor = torch.empty(record.num_bytes, dtype=torch.uint8)
        memory = memoryview(cast("Any", tensor.numpy()))
        done = 0
        with self._archive.open(record.entry) as file:  # compares the checksum at its end
            while done < record.num_bytes:
                num_read = file.readinto(memory[done : done + _CHUNK_BYTES])  # type: ignore[attr-defined]
                if not num_read:
                    raise EOFError(f"{record.entry} ends early")
                done += num_read
            file.read(1)
        return tensor.untyped_storage()
