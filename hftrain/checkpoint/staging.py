"""Copies of what a checkpoint holds, in host memory that the next save uses again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hftrain.checkpoint.contents import Part
from hftrain.checkpoint.writer import document_file, part_files
from hftrain.errors import CheckpointError

logger = logging.getLogger(__name__)

_PAGE_BYTES = 4096
_RESERVED_BYTES = 64 << 10
"""Memory for smaller tensors is not worth a place in the reserve."""
_TOUCHED_BYTES = 16 << 20

Kind = tuple[torch.Size, torch.dtype, bool]
"""Shape, dtype, and whether a device copies into it."""


class HostBuffers:
    """Memory for copies of tensors, kept from save to save: taking it anew would cost more than the copy.

    Memory that a device copies into is page-locked. One save at a time may use it.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}
        self._used: set[str] = set()
        self._reserve: dict[Kind, list[Tensor]] = {}
        self._reserving: threading.Thread | None = None
        self._is_enough = threading.Event()

    @property
    def num_bytes(self) -> int:
        """How much is held."""
        reserved = [buffer for buffers in self._reserve.values() for buffer in buffers]
        return sum(buffer.numel() * buffer.element_size() for buffer in (*self._held.values(), *reserved))

    def reserve(self, tensors: Iterable[Tensor]) -> None:
        """Take memory for copies of these, in a thread, if there is none yet: the first save need not wait for it."""
        if self._held or self._reserving is not None:
            return
        strided = [tensor for tensor in tensors if tensor.layout == torch.strided]
        # One for those that share memory, as they are saved once. The tensors themselves are let go.
        wanted = [kind for _, kind in dict.fromkeys((tensor.data_ptr(), _kind_of(tensor)) for tensor in strided)]
        self._reserve = {kind: [] for kind in wanted}
        # A daemon: nobody waits for it at the end.
        self._reserving = threading.Thread(
            target=self._take, args=(wanted,), name="hftrain-checkpoint-memory", daemon=True
        )
        self._reserving.start()

    def stop_reserving(self) -> None:
        """Take no more memory in advance."""
        if self._reserving is not None:
            self._is_enough.set()
            self._reserving.join()

    def begin(self) -> None:
        """Begin a save; what it does not use again is given back by :meth:`end`."""
        self.stop_reserving()
        self._used.clear()

    def end(self) -> None:
        """Give back what the save did not use."""
        self._reserve.clear()
        self._held = {place: buffer for place, buffer in self._held.items() if place in self._used}

    def copies(self, tensors: Mapping[str, Tensor], *, part: str) -> dict[str, Tensor]:
        """Return copies of a part's tensors; whole when this returns."""
        copied, devices = {}, set()
        for name, tensor in tensors.items():
            if tensor.layout != torch.strided or tensor.is_quantized:
                copied[name] = tensor  # no file can hold it: that is said where its file is laid out
                continue
            buffer = self._buffer(f"{part}/{name}", tensor)
            _copy(tensor.detach(), buffer)
            if tensor.is_cuda:
                devices.add(tensor.device)
            copied[name] = buffer
        for device in devices:
            torch.cuda.synchronize(device)
        return copied

    def _buffer(self, place: str, tensor: Tensor) -> Tensor:
        held = self._held.get(place)
        if held is None or held.shape != tensor.shape or held.dtype != tensor.dtype:
            self._held.pop(place, None)
            kind = _kind_of(tensor)
            reserved = self._reserve.get(kind)
            held = reserved.pop() if reserved else _empty(kind)
        self._held[place] = held
        self._used.add(place)
        return held

    def _take(self, wanted: Iterable[Kind]) -> None:
        try:
            for kind in wanted:
                if self._is_enough.is_set():
                    return
                if kind[0].numel() * kind[1].itemsize >= _RESERVED_BYTES:
                    buffer = _empty(kind)
                    self._touch(buffer)
                    self._reserve[kind].append(buffer)
        except (MemoryError, RuntimeError) as error:  # the save that needs it will say so, if it still is so
            logger.info("Memory for copies of a checkpoint could not be taken in advance: %s", error)

    def _touch(self, buffer: Tensor) -> None:
        """Write into each page, for only then the system looks for its memory: that is what takes long."""
        view = _byte_view(buffer)
        for start in range(0, len(view), _TOUCHED_BYTES):
            if self._is_enough.is_set():
                return
            view[start : start + _TOUCHED_BYTES : _PAGE_BYTES] = 0


class StagedParts:
    """This rank's parts of one checkpoint, copied: training may go on while they are written.

    Args:
        buffers: where the copies lie.
        rank: this process; others than 0 keep what is ``per_rank`` only.
        max_shard_bytes: how large a file of the model may be.
    """

    def __init__(self, buffers: HostBuffers, *, rank: int, max_shard_bytes: int) -> None:
        self.parts: list[Part] = []
        self._buffers = buffers
        self._rank = rank
        self._max_shard_bytes = max_shard_bytes
        self._names: set[str] = set()
        buffers.begin()

    def add(self, parts: Iterable[Part]) -> None:
        """Copy parts.

        Raises:
            CheckpointError: a part would write a file that another one writes, or holds what no file can.
        """
        for part in parts:
            if self._rank == 0 or part.per_rank:
                self._add(part)

    def _add(self, part: Part) -> None:
        files = dict(part.files)
        if part.document is not None:
            name, data = document_file(part, rank=self._rank)
            refuse_taken(name, files)
            files[name] = data
        tensors = self._buffers.copies(part.tensors, part=part.name)
        staged = replace(part, tensors=tensors, document=None, files=files)
        for name, chunks in part_files(staged, rank=self._rank, max_shard_bytes=self._max_shard_bytes):
            refuse_taken(name, self._names)
            self._names.add(name)
            next(iter(chunks), None)  # the header: what has no place in the file is found now
        self.parts.append(staged)

    def end(self) -> None:
        """Hear that nothing more is added."""
        self._buffers.end()


def _kind_of(tensor: Tensor) -> Kind:
    return tensor.shape, tensor.dtype, tensor.is_cuda


def _empty(kind: Kind) -> Tensor:
    shape, dtype, is_for_device = kind
    return torch.empty(shape, dtype=dtype, pin_memory=is_for_device)


def _copy(tensor: Tensor, buffer: Tensor) -> None:
    """Copy; from a device it is under way when this returns."""
    if tensor.device.type != "cpu" or not tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg():
        buffer.copy_(tensor, non_blocking=tensor.is_cuda)
        return
    # One thread fills what the memory can take. Torch's own copy starts its pool for each tensor, and where other
    # processes have the cores its threads wait for each other: measured, up to twenty times as long.
    np.copyto(_byte_view(buffer), _byte_view(tensor))


def _byte_view(tensor: Tensor) -> Any:
    """The memory of a contiguous CPU tensor as an array of bytes, not a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy()


def refuse_taken(name: str, taken: Collection[str]) -> None:
    """Raise a CheckpointError if a file of that name is written already."""
    if name in taken:
        raise CheckpointError(f"Two parts of the checkpoint would write {name}.")
