"""Whether a run's checkpoints can be written, asked before anything is computed."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from hftrain.checkpoint.catalog import scan
from hftrain.checkpoint.cleaning import torn_bytes
from hftrain.checkpoint.layout import size_text
from hftrain.checkpoint.space import MARGIN, free_bytes, num_bytes, optimizer_bytes
from hftrain.checkpoint.storage import join, storage_for
from hftrain.errors import ConfigurationError, HftrainError
from hftrain.hardware.world import read_world
from hftrain.trainer.model_files import saved_tensors

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hftrain.args.training import TrainingArguments
    from hftrain.checkpoint.ranks import Writers
    from hftrain.trainer.save_methods import SaveMethods

_NODE = ".node-"
_PROBE = bytes(4096)
"""Not empty: a disk that is full, or a quota that is used up, takes an empty file."""


def problem_with_writing(folder: str) -> str | None:
    """Return why nothing can be written into a folder; None if it can."""
    probe = join(folder, f".writable-{os.getpid()}")
    try:
        storage = storage_for(folder)
        try:
            storage.write(probe, [_PROBE])
        except OSError:
            with suppress(OSError):  # the first error says what is wrong
                storage.delete(probe)
            raise
        storage.delete(probe)
    except Exception as error:  # whatever the storage raises: an unknown protocol, a missing driver, no credentials
        return str(error).rstrip(".") if isinstance(error, HftrainError) else f"{type(error).__name__}: {error}"
    return None


def node_size(args: TrainingArguments) -> int | None:
    """Return how many processes a node has, if each node saves into a folder of its own; None if one saves for all."""
    world = read_world()
    return world.local_world_size if args.save_on_each_node and world.num_nodes > 1 else None


def refuse_common_folder(writers: Writers, folder: str) -> None:
    """Raise if nodes that should each save into their own folder see the same one. All ranks must call this.

    Raises:
        ConfigurationError: they do, and would write over each other's files.
    """
    if writers.num_folders == 1:
        return
    storage, rank = storage_for(folder), writers.ranks.process_index
    writers.run(lambda: storage.write(join(folder, f"{_NODE}{rank}"), [_PROBE]), place=folder)
    seen = writers.run(lambda: [it.name for it in storage.list(folder) if it.name.startswith(_NODE)], place=folder)
    are_alone = all(len(names) == 1 for names in writers.of_each(seen))
    writers.run(lambda: storage.delete(join(folder, f"{_NODE}{rank}")), place=folder)
    if not are_alone:
        raise ConfigurationError(
            f"save_on_each_node=True, and the nodes see the same output_dir={folder!r}: they would write over each "
            "other's files. Set save_on_each_node=False, or output_dir to a folder on each node's own disk."
        )


def refuse_lack_of_space(trainer: SaveMethods, optimizer: Optimizer) -> None:
    """Raise if a checkpoint of this run would not fit into ``output_dir``. All ranks must call this.

    Raises:
        ConfigurationError: less is free than 1.1 times what one will hold.
    """
    if trainer.args.save_strategy == "no" and trainer.args.save_minutes is None:
        return
    writers = trainer._writers()
    problem = writers.run(lambda: _lack_of_space(trainer, optimizer), place=trainer._get_output_dir(trial=None))
    problem = next((one for one in writers.of_each(problem) if one is not None), None)
    if problem is not None:
        raise ConfigurationError(problem)


def _lack_of_space(trainer: SaveMethods, optimizer: Optimizer) -> str | None:
    folder = trainer._get_output_dir(trial=None)
    free = free_bytes(folder)
    if free is None:
        return None
    # What a killed run left half written is written over, or removed after the next commit.
    free += torn_bytes(scan(storage_for(folder), folder), trainer.run_id or "")
    sizes = {"model": num_bytes(saved_tensors(trainer.model))}
    if not trainer.args.save_only_model:
        sizes["optimizer"] = optimizer_bytes(optimizer)
    total = sum(sizes.values())
    if free >= MARGIN * total:
        return None
    listed = ", ".join(f"{part} {size_text(size)}" for part, size in sizes.items())
    without = "" if trainer.args.save_only_model else "save_only_model=True to leave the optimizer out, "
    return (
        f"output_dir={folder!r} lies where {size_text(free)} are free, and one checkpoint of this run takes "
        f"{size_text(total)} ({listed}); {MARGIN:g} times that must be free. Free some space, or set output_dir to a "
        f"folder on a larger disk, {without}or save_strategy='no'."
    )
