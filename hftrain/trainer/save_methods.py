"""Saving and finding checkpoints: overridable methods over `hftrain.checkpoint`."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from hftrain._version import __version__
from hftrain.checkpoint import contents
from hftrain.checkpoint.contents import Part, document_part
from hftrain.checkpoint.layout import checkpoint_name
from hftrain.checkpoint.manager import CheckpointManager
from hftrain.checkpoint.storage import join, name_of, plain_path, storage_for
from hftrain.checkpoint.writer import write_folder
from hftrain.core.task import TaskModule
from hftrain.errors import ConfigurationError
from hftrain.hardware.seeding import rng_state
from hftrain.trainer.eval_methods import EvalMethods
from hftrain.trainer.settings import data_seed
from hftrain.types.state import export_states

if TYPE_CHECKING:
    from torch import nn

    from hftrain.checkpoint.catalog import Verification
    from hftrain.checkpoint.reader import CheckpointReader

logger = logging.getLogger(__name__)


class SaveMethods(EvalMethods):
    """Model files, checkpoints and what is read back from them."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model (and for a TaskModule how to rebuild it) so that `TaskModule.from_checkpoint` reads it.

        Args:
            output_dir: the folder; default: ``args.output_dir``.

        All ranks must call this; the main process writes.
        """
        folder = output_dir if output_dir is not None else str(self.args.output_dir)
        engine = self._running_engine()
        if engine.is_world_process_zero:
            write_folder(folder, self._model_parts(), max_shard_size=self.args.max_shard_size)
        engine.barrier()

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """Save everything a resume needs as ``checkpoint-<step>``. All ranks must call this."""
        assert self._checkpoints is not None  # set for the duration of train
        self.state.stateful_callbacks = export_states([*self.callback_handler.stateful(), self.control])
        self._name_best_checkpoint()
        runner = self._runner
        assert runner is not None  # set for the duration of train
        self._checkpoints.save(
            self.state.global_step,
            [*self._model_parts(), *self._run_parts(), document_part("trainer_state", asdict(self.state))],
            epoch=float(self.state.epoch or 0.0),
            samples=self._samples_consumed(),
            best=self.state.best_model_checkpoint,
            loaded=self._loaded_checkpoint,
        )
        # What this run was resumed from need not outlive the first commit.
        self._loaded_checkpoint = None

    def _name_best_checkpoint(self) -> None:
        """Point the state at the best step's checkpoint, if that step is saved or is being saved now."""
        if self.args.save_strategy not in ("steps", "epoch", "best") or self.state.best_global_step is None:
            return
        assert self._checkpoints is not None  # set for the duration of train
        best = self.state.best_global_step
        if best == self.state.global_step or any(known.step == best for known in self._checkpoints.committed()):
            self.state.best_model_checkpoint = join(self._checkpoints.output_dir, checkpoint_name(best))

    def _model_parts(self) -> list[Part]:
        parts = [contents.model_part(self.model.state_dict())]
        if isinstance(self.model, TaskModule):
            parts.append(document_part("task", self.model.task_document()))
        parts.append(document_part("training_args", json.loads(self.args.to_json_string())))
        return parts

    def _run_parts(self) -> list[Part]:
        """Return what a resume needs beside the model and the state."""
        runner, engine = self._runner, self._running_engine()
        assert runner is not None  # set for the duration of train
        run = {"run_id": self.run_id, "run_name": self.args.run_name, "hftrain": __version__}
        if self.args.save_only_model:
            return [document_part("run", run)]
        parts = [
            contents.optimizer_part(runner.optimizer, contents.parameter_names(self.model)),
            contents.scheduler_part(self.lr_scheduler),
            contents.rng_part(rng_state()),
            document_part("run", run),
            document_part("data", self._data_document()),
        ]
        scaler = engine.scaler_state()
        if scaler is not None:
            parts.append(contents.scaler_part(scaler))
        return parts

    def _data_document(self) -> dict[str, Any]:
        runner, engine = self._runner, self._running_engine()
        assert runner is not None  # set for the duration of train
        return {
            "position": runner.position.to_dict(),
            # One window a rank: each has its own losses until they are averaged for a row.
            "windows": engine.gather_object(
                {
                    "losses": runner.losses.state_dict(),
                    "meters": runner.meters.state_dict() if runner.meters is not None else {},
                }
            ),
            "seed": data_seed(self.args),
            "batch_size": self._train_batch_size,
            "accumulation_steps": runner.settings.accumulation_steps,
            "world_size": engine.world_size,
        }

    def _samples_consumed(self) -> int:
        runner = self._runner
        assert runner is not None  # set for the duration of train
        position, per_epoch = runner.position, runner.source.num_samples
        return position.samples + position.epoch * (per_epoch or 0)

    def _load_best_model(self) -> None:
        """Load the best checkpoint's weights, as ``load_best_model_at_end`` asks."""
        best = self._best_checkpoint()
        if best is None:
            logger.warning(
                "load_best_model_at_end=True, and no checkpoint of the best step (best_global_step=%s) was saved: "
                "the model keeps its last weights.",
                self.state.best_global_step,
            )
            return
        logger.info("Loading the best model from %s (%s).", best, self.state.best_metric)
        assert self._checkpoints is not None  # set for the duration of train
        self.model.load_state_dict(self._checkpoints.open(best).model())

    def _best_checkpoint(self) -> str | None:
        """Return the best checkpoint's path; a run whose folder was moved finds it under the new one."""
        best = self.state.best_model_checkpoint
        if best is None or self._checkpoints is None:
            return best
        moved = join(self._checkpoints.output_dir, name_of(best))
        is_here = any(known.path == moved for known in self._checkpoints.committed())
        return self._running_engine().broadcast_object(moved if is_here else best)

    def _load_run(self, reader: CheckpointReader) -> None:
        """Load optimizer, schedule and scaler of a checkpoint into those of the run."""
        assert self.optimizer is not None  # made before
        if reader.has("optimizer"):
            contents.load_optimizer(reader.part("optimizer"), self.optimizer, contents.parameter_names(self.model))
        if reader.has("scheduler"):
            contents.load_scheduler(reader.part("scheduler"), self.lr_scheduler)
        if reader.has("scaler"):
            self._running_engine().load_scaler_state(contents.tree_of(reader.part("scaler")))

    def _new_checkpoints(self) -> CheckpointManager:
        return CheckpointManager(
            str(self.args.output_dir),
            run_id=self.run_id or "",
            ranks=self._running_engine(),
            save_total_limit=self.args.save_total_limit,
            max_shard_size=self.args.max_shard_size,
            verify=cast("Verification", self.args.verify_checkpoint),
        )

    def _refuse_unwritable_output(self) -> None:
        """Try to write into ``output_dir`` before anything is computed. All ranks must call this.

        Raises:
            ConfigurationError: it cannot be written.
        """
        engine, folder = self._running_engine(), plain_path(str(self.args.output_dir))
        problem = _problem_with_writing(folder) if engine.is_world_process_zero else None
        problem = engine.broadcast_object(problem)
        if problem is not None:
            raise ConfigurationError(
                f"output_dir={folder!r} cannot be written: {problem}. Set output_dir to a folder that can."
            )


def _problem_with_writing(folder: str) -> str | None:
    probe = join(folder, f".writable-{os.getpid()}")
    try:
        storage = storage_for(folder)
        storage.write(probe, [b""])
        storage.delete(probe)
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return None
