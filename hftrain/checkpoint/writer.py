"""Parts to files: which bytes go under which name, and into which folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from hftrain.checkpoint.contents import Part
from hftrain.checkpoint.formats import model_files, parse_size, safetensors_chunks
from hftrain.checkpoint.layout import FileRecord, checked_path, dump_json, is_model_file
from hftrain.checkpoint.storage import Storage, join, plain_path, storage_for
from hftrain.errors import CheckpointError

if TYPE_CHECKING:
    from typing_extensions import Buffer


def part_files(part: Part, *, rank: int, max_shard_bytes: int) -> Iterator[tuple[str, Iterable[Buffer]]]:
    """The files of one part as (name inside the folder, bytes in pieces). Nothing is copied before it is asked for."""
    base = f"{part.name}-{rank}" if part.per_rank else part.name
    if part.name == "model":
        yield from model_files(part.tensors, part.shared, max_shard_bytes=max_shard_bytes).files()
    elif part.tensors:
        yield f"{base}.safetensors", safetensors_chunks(part.tensors, {"format": "pt"})
    if part.document is not None:
        try:
            yield f"{base}.json", [dump_json(part.document, indent=2)]
        except TypeError as error:
            raise CheckpointError(f"The part {part.name!r} is not plain JSON: {error}.") from error
    for name, data in part.files.items():
        yield checked_path(name), [data]


def write_parts(
    storage: Storage, folder: str, parts: Iterable[Part], *, rank: int, max_shard_bytes: int
) -> dict[str, FileRecord]:
    """Write this rank's files, each fsynced, and say what was written.

    Raises:
        CheckpointError: two parts write one file, or a part holds what no file can.
        OSError: the storage refused.
    """
    records: dict[str, FileRecord] = {}
    for part in parts:
        if rank != 0 and not part.per_rank:
            continue
        for name, chunks in part_files(part, rank=rank, max_shard_bytes=max_shard_bytes):
            if name in records:
                raise CheckpointError(f"Two parts of the checkpoint would write {name}.")
            written = storage.write(join(folder, name), chunks)
            records[name] = FileRecord(num_bytes=written.num_bytes, sha256=written.sha256)
    return records


def write_folder(path: str, parts: Iterable[Part], *, max_shard_size: str | int = "5GB") -> list[str]:
    """Write parts to a folder that is no checkpoint: the result of ``save_model``. Rank 0 calls this.

    Other files in the folder stay, but for an earlier model's, which readers might take for this one's.

    Returns:
        The names of the files written.
    """
    path = plain_path(path)
    storage = storage_for(path)
    for entry in storage.list(path):
        if entry.kind == "file" and is_model_file(entry.name):
            storage.delete(join(path, entry.name))
    return list(write_parts(storage, path, parts, rank=0, max_shard_bytes=parse_size(max_shard_size)))
