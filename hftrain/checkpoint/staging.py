"""Copies of what a checkpoint holds, in host memory that the next save uses again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hftrain.checkpoint.contents import Part
from hftrain.checkpoint.writer import document_file, part_files
from hftrain.errors import CheckpointError


class HostBuffers:
    """Memory for copies of tensors, kept from save to save: taking it anew would cost more than the copy.

    Memory that a device copies into is page-locked. One save at a time may use it.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}
        self._used: set[str] = set()

    @property
    def num_bytes(self) -> int:
        """How much is held."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self._held.values())

    def begin(self) -> None:
        """Begin a save; what it does not use again is given back by :meth:`end`."""
        self._used.clear()

    def end(self) -> None:
        """Give back what the save did not use."""
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
            held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        self._held[place] = held
        self._used.add(place)
        return held


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
