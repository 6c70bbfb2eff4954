"""Reading what the reference, transformers' Trainer, writes into a checkpoint folder.

Its optimizer, scheduler, scaler and random states are pickles. They are read by torch's weights-only unpickler, which
builds tensors and plain data and calls nothing else. The names of numpy that an array of 32-bit words needs stand for
classes of this file, which make nothing larger than the file. ``training_args.bin``, which holds an object, is never
opened.
"""

from __future__ import annotations

import contextlib
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import torch
from torch import Tensor

from hftrain.checkpoint.catalog import Verification
from hftrain.checkpoint.contents import Part, place_name, tree_part
from hftrain.checkpoint.formats import shards_of_index
from hftrain.checkpoint.reader import CheckpointReader, open_checkpoint
from hftrain.checkpoint.storage import Storage, join, walk
from hftrain.errors import TornCheckpointError, UnsafeCheckpointError

WEIGHTS = "pytorch_model.bin"
WEIGHTS_INDEX = "pytorch_model.bin.index.json"
OPTIMIZER = "optimizer.pt"

_LEAST_NODES = 1_000_000
"""A tree may have as many nodes as its file has bytes, and at least so many: pickles share equal parts."""


class _WordType:
    """What stands for numpy's dtype in a pickled array; it knows one, 32-bit words."""

    def __init__(self, code: str, *flags: object) -> None:
        if code != "u4":
            raise ValueError(f"an array of {code!r} is not numpy's random state")
        self.byte_order = "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.byte_order = state[1]


class _Words:
    """What stands for a pickled array of 32-bit words; numpy itself would make one of any size that a file names."""

    values: list[int]

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, _, kind, _, data = state
        self.values = list(struct.unpack(f"{kind.byte_order}{len(data) // 4}I", data))


def _new_words(*what: object) -> _Words:
    return _Words()


_ARRAY_GLOBALS: list[Any] = [
    # numpy moved it in its second version; a file has the name that its writer's numpy had.
    (_new_words, "numpy.core.multiarray._reconstruct"),
    (_new_words, "numpy._core.multiarray._reconstruct"),
    (_Words, "numpy.ndarray"),
    (_WordType, "numpy.dtype"),
]
"""What the names in a pickled array stand for."""


class ForeignReader(CheckpointReader):
    """A folder without a manifest, with the reference's files where ours are not.

    Each part comes in the form that ours have, so that whoever loads it need not know.
    """

    def __init__(self, reader: CheckpointReader) -> None:
        super().__init__(reader.storage, reader.folder)
        # Adapters lie one folder deeper, and without a manifest only the top was looked at.
        self._sizes = {path: entry.num_bytes for path, entry in walk(self.storage, self.path) if entry.kind == "file"}

    def has(self, name: str, *, rank: int | None = None) -> bool:
        """Whether the checkpoint has a part, in our form or in the reference's."""
        return super().has(name, rank=rank) or self._foreign_name(name, rank) is not None

    def part(self, name: str, *, rank: int | None = None) -> Part:
        """A part in our form. Raises as `CheckpointReader.part`, and UnsafeCheckpointError."""
        file_name = self._foreign_name(name, rank)
        if super().has(name, rank=rank) or file_name is None:
            return super().part(name, rank=rank)
        if name == "model" or name.endswith("adapter_model"):
            return Part(name=name, tensors=self.tensors(name))
        state = self._load(file_name)
        try:
            return _IN_OUR_FORM[name](state, rank or 0)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise TornCheckpointError(
                f"{join(self.path, file_name)} is not what the reference writes: {type(error).__name__}: {error}."
            ) from error

    def tensors(self, name: str, *, rank: int | None = None) -> dict[str, Tensor]:
        """The tensors of a part, on the CPU; none if it has none."""
        file_name = self._foreign_name(name, rank)
        if super().has(name, rank=rank) or file_name is None:
            return super().tensors(name, rank=rank)
        names = shards_of_index(self._json(file_name)) if file_name == WEIGHTS_INDEX else [file_name]
        tensors: dict[str, Tensor] = {}
        for one in names:
            found = self._load(one)
            if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
                raise TornCheckpointError(f"{join(self.path, one)} holds something else than named tensors.")
            tensors |= found
        return tensors

    def _foreign_name(self, name: str, rank: int | None) -> str | None:
        if name.endswith("adapter_model"):
            names = [f"{name}.bin"]
        elif name == "rng":
            names = [f"rng_state_{rank}.pth", *(["rng_state.pth"] if rank == 0 else [])]
        else:
            names = _FILE_NAMES.get(name, [])
        return next((one for one in names if self.has_file(one)), None)

    def _load(self, name: str) -> Any:
        size = self._size(name)
        with self.storage.read(join(self.path, name)) as file:
            return load_pickled(file, size, name=join(self.path, name))


def open_any(path: str, *, verify: Verification = "auto", storage: Storage | None = None) -> CheckpointReader:
    """Open a checkpoint of ours, verified, or one of the reference; raises as `reader.open_checkpoint`."""
    reader = open_checkpoint(path, verify=verify, storage=storage)
    return reader if reader.manifest is not None else ForeignReader(reader)


def load_pickled(file: BinaryIO, num_bytes: int, *, name: str) -> Any:
    """What ``torch.save`` wrote: tensors, on the CPU, arrays of words and plain data. Nothing in it is called.

    Raises:
        UnsafeCheckpointError: it holds anything else, or unpacks to more than its size.
        TornCheckpointError: it is no file of ``torch.save``, or not whole.
    """
    _check_archive(file, num_bytes, name=name)
    file.seek(0)
    try:
        with _only_array_globals():
            tree = torch.load(file, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:  # the unpickler raises whatever a broken pickle leads to
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnsafeCheckpointError(
            f"{name} holds more than tensors, arrays and plain data, or is broken, and was not loaded: {text}"
        ) from error
    _check_extent(tree, num_bytes, name=name)
    return tree


def _check_extent(tree: Any, num_bytes: int, *, name: str) -> None:
    """Raise if the tree is much more than its file: one part may stand in it many times, as may a tensor's element."""
    nodes, num_left = [tree], max(num_bytes, _LEAST_NODES)
    while nodes:
        node = nodes.pop()
        if isinstance(node, Tensor):
            is_stored = node.layout == torch.strided and not node.is_meta
            if not is_stored or not node.nbytes <= node.untyped_storage().nbytes() <= num_bytes:
                raise UnsafeCheckpointError(
                    f"{name} holds a tensor of shape {tuple(node.shape)} whose elements are not all in it."
                )
        elif isinstance(node, dict | list | tuple | set):
            num_left -= len(node)
            if num_left < 0:
                raise UnsafeCheckpointError(f"{name} has {num_bytes} bytes and unpacks to many times that size.")
            nodes += node.values() if isinstance(node, dict) else node


def _check_archive(file: BinaryIO, num_bytes: int, *, name: str) -> None:
    """Raise unless it is a zip archive as torch writes them: entries as they are, not compressed."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise TornCheckpointError(f"{name} is not a whole file of torch.save: {error}.") from error
    is_compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if is_compressed or sum(entry.file_size for entry in entries) > num_bytes:
        raise UnsafeCheckpointError(f"{name} is compressed, which torch.save does not do: it may unpack to any size.")


@contextlib.contextmanager
def _only_array_globals() -> Iterator[None]:
    """Let the unpickler know numpy's arrays, and nothing that this process allowed elsewhere."""
    serialization = torch.serialization
    others = serialization.get_safe_globals()
    serialization.clear_safe_globals()
    serialization.add_safe_globals(_ARRAY_GLOBALS)
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(others)


# ---- into our form ------------------------------------------------------------------------------------------------


def _optimizer_part(state: Any, rank: int) -> Part:
    """The reference's optimizer knows its parameters by their place; so does ours where it has no names."""
    names: dict[int, str] = {}
    groups = []
    for number, group in enumerate(state["param_groups"]):
        names |= {index: place_name(number, place) for place, index in enumerate(group["params"])}
        groups.append({**group, "params": [names[index] for index in group["params"]]})
    by_name = {names[index]: value for index, value in state["state"].items()}
    more = {key: value for key, value in state.items() if key not in ("state", "param_groups")}
    return tree_part("optimizer", {"state": by_name, "param_groups": groups, "more": more})


def _rng_part(state: Any, rank: int) -> Part:
    version, words, gauss = state["python"]
    _, twister, position, has_gauss, cached = state["numpy"]
    tree = {
        "python": {"version": version, "words": list(words), "gauss": gauss},
        "numpy": {
            "words": twister.values,
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(cached),
        },
        "torch": state["cpu"],
    }
    if "cuda" in state:
        cuda = state["cuda"]  # of one device, or of each that its process saw
        tree["cuda"] = cuda[rank % len(cuda)] if isinstance(cuda, list | tuple) else cuda
    return tree_part("rng", tree, per_rank=True)


_FILE_NAMES = {
    "model": [WEIGHTS, WEIGHTS_INDEX],
    "optimizer": [OPTIMIZER],
    "scheduler": ["scheduler.pt"],
    "scaler": ["scaler.pt"],
}
_IN_OUR_FORM: dict[str, Callable[[Any, int], Part]] = {
    "optimizer": _optimizer_part,
    "scheduler": lambda state, rank: tree_part("scheduler", dict(state)),
    "scaler": lambda state, rank: tree_part("scaler", dict(state)),
    "rng": _rng_part,
}
