"""Parts to files: which bytes go under which name, and into which folder."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from hftrain.checkpoint.contents import Part
from hftrain.checkpoint.formats import model_files, parse_size, safetensors_chunks
from hftrain.checkpoint.layout import checked_path, dump_json, is_model_file
from hftrain.checkpoint.storage import Repeatable, Storage, Written, join, plain_path, storage_for
from hftrain.errors import CheckpointError

if TYPE_CHECKING:
    from typing_extensions import Buffer


def part_files(part: Part, *, rank: int, max_shard_bytes: int) -> Iterator[tuple[str, Iterable[Buffer]]]:
    """The files of one part as (name inside the folder, bytes in pieces). Nothing is copied before it is asked for."""
    base = _base_name(part, rank)
    if part.name == "model":
        yield from model_files(part.tensors, part.shared, max_shard_bytes=max_shard_bytes).files()
    elif part.tensors:
        yield f"{base}.safetensors", Repeatable(partial(safetensors_chunks, part.tensors, {"format": "pt"}))
    if part.document is not None:
        document, data = document_file(part, rank=rank)
        yield document, [data]
    for name, data in part.files.items():
        yield checked_path(name), [data]


def document_file(part: Part, *, rank: int) -> tuple[str, bytes]:
    """Name and bytes of the file that is the part's document. Raises CheckpointError for what JSON cannot hold."""
    try:
        return f"{_base_name(part, rank)}.json", dump_json(part.document, indent=2)
    except TypeError as error:
        raise CheckpointError(f"The part {part.name!r} is not plain JSON: {error}.") from error


def write_parts(
    storage: Storage,
    folder: str,
    parts: Iterable[Part],
    *,
    rank: int,
    max_shard_bytes: int,
    taken: Collection[str] = (),
    is_writer: bool | None = None,
) -> dict[str, Written]:
    """Write this rank's files, each fsynced, and say what was written.

    Args:
        storage: where ``folder`` lies.
        folder: the folder to write into.
        parts: the writer's whole, the other ranks' at least those that are ``per_rank``.
        rank: this process.
        max_shard_bytes: how large a file of the model may be.
        taken: names that were written before.
        is_writer: whether it writes what is not ``per_rank``; default: rank 0 does.

    Raises:
        CheckpointError: two parts write one file, or a part holds what no file can.
        OSError: the storage refused.
    """
    found: dict[str, Written] = {}
    is_writer = rank == 0 if is_writer is None else is_writer
    for part in parts:
        if not is_writer and not part.per_rank:
            continue
        for name, chunks in part_files(part, rank=rank, max_shard_bytes=max_shard_bytes):
            if name in found or name in taken:
                raise CheckpointError(f"Two parts of the checkpoint would write {name}.")
            found[name] = storage.write(join(folder, name), chunks)
    return found


def write_folder(
    path: str, parts: Sequence[Part], *, max_shard_size: str | int = "5GB", rank: int = 0, is_writer: bool | None = None
) -> list[str]:
    """Write parts to a folder that is no checkpoint: the result of ``save_model``.

    Other files in the folder stay; when a model is among the parts, an earlier one's go, which readers might take for
    this one's.

    Args:
        path: the folder, made if it is not there.
        parts: what to write.
        max_shard_size: how large a file of the model may be.
        rank: this process.
        is_writer: whether it writes what is not ``per_rank``; default: rank 0 does.

    Returns:
        The names of the files written.
    """
    path = plain_path(path)
    storage = storage_for(path)
    is_writer = rank == 0 if is_writer is None else is_writer
    if is_writer and any(part.name == "model" for part in parts):
        for entry in storage.list(path):
            if entry.kind == "file" and is_model_file(entry.name):
                storage.delete(join(path, entry.name))
    size = parse_size(max_shard_size)
    return list(write_parts(storage, path, parts, rank=rank, max_shard_bytes=size, is_writer=is_writer))


def _base_name(part: Part, rank: int) -> str:
    return f"{part.name}-{rank}" if part.per_rank else part.name
