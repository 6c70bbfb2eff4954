"""What a checkpoint holds of a running Trainer beside its model."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hftrain._version import __version__
from hftrain.checkpoint.contents import Part, document_part
from hftrain.checkpoint.layout import checkpoint_name
from hftrain.checkpoint.storage import join
from hftrain.checkpoint.writer import write_folder
from hftrain.trainer.background import settle
from hftrain.trainer.preemption import stopped_parts
from hftrain.trainer.reshaping import length_document, shape_of
from hftrain.types.state import TrainerState, export_states

if TYPE_CHECKING:
    from hftrain.args.training import TrainingArguments
    from hftrain.checkpoint.saving import CheckpointSave
    from hftrain.trainer.save_methods import SaveMethods

logger = logging.getLogger(__name__)

BEST_HAS_A_CHECKPOINT = ("steps", "epoch", "best")
"""The save strategies under which the best step may have been saved."""


def write_parts(trainer: SaveMethods, folder: str, parts: Sequence[Part]) -> None:
    """Write parts into the checkpoint that is being saved there, or into any other folder."""
    save = trainer._checkpoints.open_save_in(folder) if trainer._checkpoints is not None else None
    if save is not None:
        save.write(parts)
        return
    writers = trainer._writers()
    write_folder(
        folder,
        parts,
        max_shard_size=trainer.args.max_shard_size,
        rank=writers.ranks.process_index,
        is_writer=writers.is_writer,
    )


def begin_checkpoint(trainer: SaveMethods) -> CheckpointSave | None:
    """Begin this step's checkpoint; None if it is the one that the run was resumed from. All ranks must call this.

    One that is being written in the background is waited for first.
    """
    assert trainer._checkpoints is not None  # set for the duration of train
    settle(trainer, wait=True)
    save = trainer._checkpoints.begin(
        trainer.state.global_step,
        epoch=float(trainer.state.epoch or 0.0),
        samples=samples_consumed(trainer),
        loaded=trainer._loaded_checkpoint,
    )
    # What this run was resumed from need not outlive the first commit.
    trainer._loaded_checkpoint = None
    return save


def progress_parts(trainer: SaveMethods, data: dict[str, Any]) -> list[Part]:
    """Return how far the run is: its name, its data and its state."""
    run: dict[str, Any] = {"run_id": trainer.run_id, "run_name": trainer.args.run_name, "hftrain": __version__}
    if trainer._tracking is not None and trainer._tracking.remote_ids:
        run["remote_ids"] = dict(trainer._tracking.remote_ids)
    parts = [document_part("run", run), document_part("trainer_state", asdict(trainer.state))]
    if trainer.args.save_only_model:
        return parts
    return [*parts, document_part("data", data), *stopped_parts(trainer)]


def arguments_part(args: TrainingArguments) -> Part:
    """Return the arguments, as JSON."""
    return document_part("training_args", json.loads(args.to_json_string()))


def data_document(trainer: SaveMethods) -> dict[str, Any]:
    """Return where in the data the run is, and what its open log row holds so far. All ranks must call this."""
    runner, engine = trainer._runner, trainer._running_engine()
    assert runner is not None  # set for the duration of train
    return {
        "position": runner.position.to_dict(),
        **({"unfinished": runner.unfinished.to_dict()} if runner.unfinished else {}),
        "order": runner.source.order(),
        # One window a rank: each has its own losses until they are averaged for a row.
        "windows": engine.gather_object(
            {
                "losses": runner.losses.state_dict(),
                "meters": runner.meters.state_dict() if runner.meters is not None else {},
            }
        ),
        "length": length_document(runner.horizon, trainer.lr_scheduler),
        **shape_of(
            trainer,
            trainer.callback_handler.train_dataloader,
            accumulation_steps=runner.settings.accumulation_steps,
            num_samples=runner.source.num_samples,
        ),
    }


def samples_consumed(trainer: SaveMethods) -> int:
    """Return how many samples the run has consumed over all ranks and epochs."""
    runner = trainer._runner
    assert runner is not None  # set for the duration of train
    position, per_epoch = runner.position, runner.source.num_samples
    return position.samples + position.epoch * (per_epoch or 0)


def note_state(trainer: SaveMethods) -> None:
    """Bring the state up to date before it is saved: its callbacks' states, and the best step's checkpoint."""
    state = trainer.state
    state.stateful_callbacks = export_states([*trainer.callback_handler.stateful(), trainer.control])
    best, checkpoints = state.best_global_step, trainer._checkpoints
    if best is None or checkpoints is None or trainer.args.save_strategy not in BEST_HAS_A_CHECKPOINT:
        return
    if best == state.global_step or checkpoints.has_committed(best):
        state.best_model_checkpoint = join(checkpoints.output_dir, checkpoint_name(best))


def differing_arguments(args: TrainingArguments, state: TrainerState, *, with_batch_size: bool = True) -> list[str]:
    """Return a line for each argument that is not what a checkpoint's state says.

    ``with_batch_size`` is False where the run's shape, with the batch size, is compared beside.
    """
    now = {
        "logging_steps": _steps(args.logging_steps, state.max_steps),
        "eval_steps": _steps(args.eval_steps, state.max_steps),
        "save_steps": _steps(args.save_steps, state.max_steps),
    }
    then = {name: getattr(state, name) for name in now}
    if with_batch_size and state.train_batch_size is not None and not args.auto_find_batch_size:  # it keeps its own
        now["per_device_train_batch_size"] = args.per_device_train_batch_size
        then["per_device_train_batch_size"] = state.train_batch_size // max(1, args.n_gpu)
    return [
        f"{name}: {now[name]} (from args) != {then[name]} (from trainer_state.json)"
        for name in now
        if now[name] is not None and then[name] is not None and now[name] != then[name]
    ]


def _steps(value: float | None, max_steps: int) -> int | None:
    """Return a number of steps; one below 1 is a share of the run."""
    if value is None:
        return None
    return math.ceil(max_steps * value) if value < 1 else int(value)
