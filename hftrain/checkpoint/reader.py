"""Reading a checkpoint that anyone may have written: nothing runs, nothing outside the folder is opened."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from hftrain.checkpoint.catalog import CheckpointFolder, Status, Verification, check_sums, inspect_folder
from hftrain.checkpoint.contents import Part, model_state
from hftrain.checkpoint.documents import check_document
from hftrain.checkpoint.formats import read_safetensors, shards_of_index, shared_names
from hftrain.checkpoint.layout import (
    MAX_JSON_BYTES,
    MODEL,
    MODEL_INDEX,
    TRAINER_STATE,
    Manifest,
    checked_path,
    is_plain_path,
    load_json,
    parse_step,
)
from hftrain.checkpoint.storage import Storage, join, plain_path, storage_for
from hftrain.errors import CheckpointError, CheckpointNotFoundError, TornCheckpointError, UnsafeCheckpointError
from hftrain.types.state_fields import is_count


class CheckpointReader:
    """One folder, open for reading. Files its manifest does not list are not there.

    A folder without a manifest (the reference's checkpoints, a saved model) offers all its plain files.
    """

    def __init__(self, storage: Storage, folder: CheckpointFolder) -> None:
        self.path = folder.path
        self.manifest: Manifest | None = folder.manifest
        self.storage = storage
        self.folder = folder
        listed: Iterable[str] = folder.manifest.files if folder.manifest else filter(is_plain_path, folder.files)
        self._sizes = {name: folder.files[name].num_bytes for name in listed if folder.files[name].kind == "file"}

    @property
    def files(self) -> list[str]:
        """The paths of all files, inside the folder."""
        return sorted(self._sizes)

    @property
    def step(self) -> int:
        """The optimizer step it was saved at. Raises TornCheckpointError where nothing tells."""
        step = self.folder.step
        if step is None:
            state = self.document("trainer_state")
            step = state.get("global_step") if isinstance(state, dict) else None
            if not isinstance(step, int) or not is_count(step):
                raise TornCheckpointError(f"{join(self.path, TRAINER_STATE)} has no valid global_step.")
        return step

    def has(self, name: str, *, rank: int | None = None) -> bool:
        """Whether the checkpoint has a part; give ``rank`` for one that each rank wrote."""
        base = _base(name, rank)
        whole = {f"{base}.safetensors", f"{base}.json"} | ({MODEL_INDEX} if name == "model" else set())
        return not whole.isdisjoint(self._sizes)

    def has_file(self, name: str) -> bool:
        """Whether a file is there, by its path inside the folder."""
        return name in self._sizes

    def document(self, name: str, *, rank: int | None = None) -> Any:
        """The JSON of a part. Raises CheckpointError if there is none."""
        return self._json(f"{_base(name, rank)}.json")

    def fields(self, name: str) -> dict[str, Any]:
        """The JSON of a part that is an object, each known field of it what it must be. Raises TornCheckpointError."""
        document = self.document(name)
        if not isinstance(document, dict):
            raise TornCheckpointError(f"{join(self.path, name)}.json holds no JSON object.")
        check_document(name, document, path=f"{join(self.path, name)}.json")
        return document

    def tensors(self, name: str, *, rank: int | None = None) -> dict[str, Tensor]:
        """The tensors of a part, on the CPU; none if it has none."""
        return self._tensors_and_shared(name, rank)[0]

    def part(self, name: str, *, rank: int | None = None) -> Part:
        """A part as it was written, for the loaders of ``contents``. Raises CheckpointError if there is none."""
        if not self.has(name, rank=rank):
            raise CheckpointError(f"{self.path} holds no {_base(name, rank)}; it holds {', '.join(self.files)}.")
        tensors, shared = self._tensors_and_shared(name, rank)
        document = self.document(name, rank=rank) if self.has_file(f"{_base(name, rank)}.json") else None
        return Part(name=name, tensors=tensors, document=document, per_rank=rank is not None, shared=shared)

    def model(self) -> dict[str, Any]:
        """The model's state dict."""
        return model_state(self.part("model"))

    def file(self, name: str) -> bytes:
        """A file as it is, at most 256 MiB of it."""
        size = self._size(name)
        if size > MAX_JSON_BYTES:
            raise UnsafeCheckpointError(f"{join(self.path, name)} has {size} bytes; at most {MAX_JSON_BYTES} are read.")
        with self.storage.read(join(self.path, name)) as file:
            return file.read(size)

    def _json(self, name: str) -> Any:
        return load_json(self.file(name), name=join(self.path, name))

    def _size(self, name: str) -> int:
        if checked_path(name) not in self._sizes:
            raise CheckpointError(f"{self.path} holds no {name}; it holds {', '.join(self.files) or 'nothing'}.")
        return self._sizes[name]

    def _tensors_and_shared(self, name: str, rank: int | None) -> tuple[dict[str, Tensor], dict[str, str]]:
        files, expected = [f"{_base(name, rank)}.safetensors"], set[str]()
        if name == "model" and not self.has_file(MODEL):
            index = self._json(MODEL_INDEX) if self.has_file(MODEL_INDEX) else {"weight_map": {}}
            files, expected = shards_of_index(index), set(index["weight_map"])
        elif not self.has_file(files[0]):
            return {}, {}
        sizes = {file_name: self._size(file_name) for file_name in files}
        check_memory(sum(sizes.values()), name=join(self.path, files[0] if len(files) == 1 else MODEL_INDEX))
        tensors: dict[str, Tensor] = {}
        shared: dict[str, str] = {}
        for file_name, size in sizes.items():
            with self.storage.read(join(self.path, file_name)) as file:
                found, metadata = read_safetensors(file, size, name=join(self.path, file_name))
            if not tensors.keys().isdisjoint(found):
                raise UnsafeCheckpointError(f"{self.path} has one tensor in two shards; {file_name} is the second.")
            tensors |= found
            shared |= shared_names(metadata, found, name=file_name)
        if not tensors.keys().isdisjoint(shared):
            raise UnsafeCheckpointError(f"{self.path} has a tensor that it also calls another's memory.")
        if not expected <= tensors.keys():
            missing = sorted(expected - tensors.keys())
            raise TornCheckpointError(f"{join(self.path, MODEL_INDEX)} names {missing[0]!r}, which no file of it has.")
        return tensors, shared


def open_checkpoint(path: str, *, verify: Verification = "auto", storage: Storage | None = None) -> CheckpointReader:
    """Open a folder and verify it: sizes always, checksums as ``verify`` says.

    Raises:
        CheckpointNotFoundError: there is no such folder, or it is empty.
        TornCheckpointError: it was never committed, or is not what was written.
        UnsafeCheckpointError: it names files outside the folder, or links to them.
    """
    path = plain_path(path)
    storage = storage or storage_for(path)
    folder = inspect_folder(storage, path)
    if not folder.files:
        inside = [join(path, entry.name) for entry in storage.list(path) if parse_step(entry.name) is not None]
        found = f"it holds checkpoints. Name one, such as {inside[0]}" if inside else "no such folder, or nothing in it"
        raise CheckpointNotFoundError(f"Can't find a valid checkpoint at {path}: {found}.")
    if folder.status in (Status.TORN, Status.NEWER):
        raise TornCheckpointError(f"{path} cannot be loaded. {folder.reason}")
    check_sums(storage, folder, verify)
    return CheckpointReader(storage, folder)


def read_model(path: str, *, verify: Verification = "auto") -> dict[str, Any]:
    """The model's state dict from a checkpoint or a saved model, on the CPU; raises as :func:`open_checkpoint`."""
    return open_checkpoint(path, verify=verify).model()


def read_task(path: str, *, verify: Verification = "auto") -> dict[str, Any]:
    """``task.json``: class path and constructor arguments of the TaskModule; raises as :func:`open_checkpoint`."""
    return open_checkpoint(path, verify=verify).fields("task")


def check_memory(num_bytes: int, *, name: str) -> None:
    """Raise before a part is read that this machine has no memory for: a file may have holes and be of any length.

    Raises:
        CheckpointError: it is larger than the machine's memory.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else num_bytes
    if num_bytes > memory:
        raise CheckpointError(f"{name} holds {num_bytes} bytes of tensors; this machine has {memory} bytes of memory.")


def _base(name: str, rank: int | None) -> str:
    return name if rank is None else f"{name}-{rank}"
