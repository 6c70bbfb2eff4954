"""Whether a run's checkpoints can be written, asked before anything is computed."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from hftrain.checkpoint.layout import size_text
from hftrain.checkpoint.space import MARGIN, free_bytes, num_bytes, optimizer_bytes
from hftrain.checkpoint.storage import join, storage_for
from hftrain.errors import ConfigurationError, HftrainError
from hftrain.trainer.model_files import saved_tensors

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hftrain.trainer.save_methods import SaveMethods

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


def refuse_lack_of_space(trainer: SaveMethods, optimizer: Optimizer) -> None:
    """Raise if a checkpoint of this run would not fit into ``output_dir``. All ranks must call this.

    Raises:
        ConfigurationError: less is free than 1.1 times what one will hold.
    """
    if trainer.args.save_strategy == "no" and trainer.args.save_minutes is None:
        return
    engine = trainer._running_engine()
    problem = _lack_of_space(trainer, optimizer) if engine.is_world_process_zero else None
    problem = engine.broadcast_object(problem)
    if problem is not None:
        raise ConfigurationError(problem)


def _lack_of_space(trainer: SaveMethods, optimizer: Optimizer) -> str | None:
    folder = trainer._get_output_dir(trial=None)
    free = free_bytes(folder)
    if free is None:
        return None
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
