"""Saving and finding checkpoints: overridable methods over `hftrain.checkpoint`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

from hftrain.checkpoint import contents
from hftrain.checkpoint.checks import named_errors
from hftrain.checkpoint.foreign import open_any
from hftrain.checkpoint.manager import CheckpointManager
from hftrain.checkpoint.ranks import Writers
from hftrain.checkpoint.storage import plain_path
from hftrain.errors import ConfigurationError
from hftrain.hardware.seeding import rng_state, seed_rank, set_rng_state
from hftrain.trainer.compared import changed_arguments, saved_arguments
from hftrain.trainer.eval_methods import EvalMethods
from hftrain.trainer.model_files import LoadResult, load_weights, merged, model_parts, processing_parts
from hftrain.trainer.preflight import node_size, problem_with_writing, refuse_common_folder
from hftrain.trainer.saving import (
    arguments_part,
    begin_checkpoint,
    data_document,
    differing_arguments,
    note_state,
    progress_parts,
    write_parts,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from hftrain.args.training import TrainingArguments
    from hftrain.checkpoint.catalog import Verification
    from hftrain.checkpoint.reader import CheckpointReader
    from hftrain.types.state import TrainerState

logger = logging.getLogger(__name__)


class SaveMethods(EvalMethods):
    """Model files, checkpoints and what is read back from them."""

    # ---- saving -------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, so that `from_pretrained` or `TaskModule.from_checkpoint` reads it.

        Args:
            output_dir: the folder; default: ``args.output_dir``.
            _internal_call: whether it is part of a checkpoint.

        All ranks must call this; the main process writes, that of each node with ``save_on_each_node``, and its error
        is one on all.
        """
        writers = self._writers()
        if not _internal_call:
            writers.run(lambda: self._save(output_dir), place=self._model_folder(output_dir))
        elif writers.is_writer:
            self._save(output_dir)

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Any] | None = None) -> None:
        """Write the model, what processes its inputs, and the arguments. The main process calls this.

        A model of transformers comes with its configurations, one with adapters as its adapters alone, and a
        TaskModule with what rebuilds it. Tensors that are one memory are written once.
        """
        folder = self._model_folder(output_dir)
        size = self.args.max_shard_size
        parts = model_parts(self.model, folder, state_dict=state_dict, max_shard_size=size)
        processing = processing_parts(self.processing_class, getattr(self.data_collator, "tokenizer", None))
        write_parts(self, folder, merged([*parts, *processing, arguments_part(self.args)]))

    def _model_folder(self, output_dir: str | None) -> str:
        return plain_path(output_dir if output_dir is not None else str(self.args.output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """Save everything a resume needs as ``checkpoint-<step>``. All ranks must call this.

        Each piece is one overridable method, and what an override writes into the checkpoint's folder is part of it.
        The checkpoint is there, whole, when this returns; where the loop saves in the background it is copied then.
        """
        self.store_flos()
        data, save = data_document(self), begin_checkpoint(self)
        if save is None:
            return
        with save:
            self._save_parts(save.folder, data)
        assert self._checkpoints is not None  # set for the duration of train
        if self._writers().is_writer and not self._checkpoints.background.is_writing:
            self._rotate_checkpoints(use_mtime=True, output_dir=self._get_output_dir(trial))

    def _maybe_log_save_evaluate(
        self,
        tr_loss: Tensor,
        grad_norm: Any,
        model: nn.Module,
        trial: Any,
        epoch: float,
        ignore_keys_for_eval: list[str] | None,
        start_time: float,
        learning_rate: Any = None,
    ) -> None:
        """Log, evaluate and save as the flags of `control` ask; an override is called after each step and epoch.

        Args:
            tr_loss: sum over the open window of this rank's losses, 0-d.
            grad_norm: norm of the last step's gradients.
            model: the model.
            trial: None.
            epoch: which epoch it is.
            ignore_keys_for_eval: outputs of the model that are not predictions.
            start_time: when training began.
            learning_rate: that of the last step.
        """
        if self._runner is not None:
            self._runner.react()

    def _save_parts(self, folder: str, data: dict[str, Any]) -> None:
        self.save_model(folder, _internal_call=True)
        note_state(self)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(folder)
            self._save_scaler(folder)
            self._save_rng_state(folder)
        write_parts(self, folder, progress_parts(self, data))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write the optimizer's and the scheduler's state."""
        assert self._runner is not None  # set for the duration of train
        optimizer = contents.optimizer_part(self._runner.optimizer, contents.parameter_names(self.model))
        write_parts(self, output_dir, [optimizer, contents.scheduler_part(self.lr_scheduler)])

    def _save_scaler(self, output_dir: str) -> None:
        """Write the loss scaler's state, if there is one."""
        state = self._running_engine().scaler_state()
        if state is not None:
            write_parts(self, output_dir, [contents.scaler_part(state)])

    def _save_rng_state(self, output_dir: str) -> None:
        """Write the state of this rank's random generators."""
        write_parts(self, output_dir, [contents.rng_part(rng_state())])

    def _rotate_checkpoints(self, use_mtime: bool = False, output_dir: str | None = None) -> None:
        """Delete what ``save_total_limit`` leaves over, and what was never committed. The main process calls this.

        Args:
            use_mtime: has no effect; the order is that of the commits.
            output_dir: has no effect; it is the run's folder.
        """
        if self._checkpoints is not None:
            self._checkpoints.clean_up(self.state.best_model_checkpoint)

    def _sorted_checkpoints(
        self, output_dir: str | None = None, checkpoint_prefix: str = "checkpoint", use_mtime: bool = False
    ) -> list[str]:
        """Return the paths of the committed checkpoints, the oldest first; empty outside of `train`."""
        return [known.path for known in self._checkpoints.committed()] if self._checkpoints is not None else []

    def _get_output_dir(self, trial: Any = None) -> str:
        """Return the folder that the run's checkpoints lie in."""
        return plain_path(str(self.args.output_dir))

    # ---- loading ------------------------------------------------------------------------------------

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load a checkpoint's weights into the model; only adapters into a model that has them.

        Raises:
            CheckpointNotFoundError: the folder holds no weights for it.
        """
        logger.info("Loading the weights of %s.", resume_from_checkpoint)
        reader = self._checkpoint(resume_from_checkpoint)
        self._issue_warnings_after_load(load_weights(model if model is not None else self.model, reader))

    def _issue_warnings_after_load(self, load_result: LoadResult) -> None:
        """Say which weights the checkpoint lacks, or has beyond those of the model."""
        if load_result.missing_keys:
            logger.warning("Missing in the checkpoint, and left as they were: %s.", ", ".join(load_result.missing_keys))
        if load_result.unexpected_keys:
            logger.warning("In the checkpoint, but not in the model: %s.", ", ".join(load_result.unexpected_keys))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load a checkpoint's optimizer and scheduler into those of the run."""
        if checkpoint is None:
            return
        reader = self._checkpoint(checkpoint)
        assert self.optimizer is not None  # made before
        if reader.has("optimizer"):
            contents.load_optimizer(reader.part("optimizer"), self.optimizer, contents.parameter_names(self.model))
        if reader.has("scheduler"):
            contents.load_scheduler(reader.part("scheduler"), self.lr_scheduler)

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Load a checkpoint's loss scaler into the run's."""
        reader = None if checkpoint is None else self._checkpoint(checkpoint)
        if reader is not None and reader.has("scaler"):
            with named_errors("loss scale"):
                self._running_engine().load_scaler_state(contents.scaler_state(reader.part("scaler")))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Put this rank's random generators back to where a checkpoint has them.

        A rank that there was not then is seeded from seed, step and rank.
        """
        rank = self._running_engine().process_index
        reader = None if checkpoint is None else self._checkpoint(checkpoint)
        if reader is None:
            return
        if not reader.has("rng", rank=rank):
            level = logging.INFO if rank else logging.WARNING  # a rank that joins is no surprise
            said = "%s has no random state of rank %d: it is seeded from seed, step and rank."
            logger.log(level, said, reader.path, rank)
            seed_rank(self.args.seed, step=self.state.global_step, rank=rank)
            return
        with named_errors("random state"):
            set_rng_state(contents.rng_of(reader.part("rng", rank=rank)))

    def _load_callback_state(self) -> None:
        """Give the callbacks the states that the checkpoint kept, as the arguments ask."""
        if self.args.restore_callback_states_from_checkpoint:
            self.callback_handler.restore(self.state.stateful_callbacks)

    def _load_best_model(self) -> None:
        """Load the best checkpoint's weights, as ``load_best_model_at_end`` asks."""
        best = self._best_checkpoint()
        if best is None:
            logger.warning(
                "load_best_model_at_end=True, and there is no checkpoint of the best step (best_global_step=%s, "
                "best_model_checkpoint=%s): the model keeps its last weights.",
                self.state.best_global_step,
                self.state.best_model_checkpoint,
            )
            return
        logger.info("Loading the best model from %s (%s).", best, self.state.best_metric)
        self._issue_warnings_after_load(load_weights(self.model, self._checkpoint(best)))

    def compare_trainer_and_checkpoint_args(
        self, training_args: TrainingArguments, trainer_state: TrainerState
    ) -> None:
        """Warn once of arguments that change the run, or when it logs and saves, and differ from the checkpoint's."""
        saved = saved_arguments(self)
        differing = differing_arguments(training_args, trainer_state, with_batch_size=not saved)
        differing += changed_arguments(training_args, saved)
        if differing and self._running_engine().is_world_process_zero:
            logger.warning("Arguments that are not those of the checkpoint:\n\t%s", "\n\t".join(differing))

    def _checkpoint(self, path: str) -> CheckpointReader:
        return open_any(path) if self._checkpoints is None else self._checkpoints.open(path)

    # ---- the run's checkpoints ----------------------------------------------------------------------

    def _best_checkpoint(self) -> str | None:
        """Return the best checkpoint's path; None if there is none, or not any more. All ranks must call this."""
        best = self.state.best_model_checkpoint
        if best is None or self._checkpoints is None:
            return best
        return self._running_engine().broadcast_object(self._checkpoints.whereabouts(best))

    def _writers(self) -> Writers:
        return Writers(self._running_engine(), node_size=node_size(self.args))

    def _new_checkpoints(self) -> CheckpointManager:
        if not self.args.save_safetensors:
            logger.warning(
                "save_safetensors=False: weights are written as safetensors all the same, never as a pickle. Tensors "
                "that share memory are saved once."
            )
        return CheckpointManager(
            self._get_output_dir(trial=None),
            run_id=self.run_id or "",
            ranks=self._running_engine(),
            save_total_limit=self.args.save_total_limit,
            keep_every_steps=self.args.save_keep_every_steps,
            max_shard_size=self.args.max_shard_size,
            verify=cast("Verification", self.args.verify_checkpoint),
            node_size=node_size(self.args),
        )

    def _refuse_unwritable_output(self) -> None:
        """Try to write into ``output_dir`` before anything is computed. All ranks must call this.

        Raises:
            ConfigurationError: it cannot be written.
        """
        writers, folder = self._writers(), self._get_output_dir(trial=None)
        problem = problem_with_writing(folder) if writers.is_writer else None
        problem = next((one for one in writers.of_each(problem) if one is not None), None)
        if problem is not None:
            raise ConfigurationError(
                f"output_dir={folder!r} cannot be written: {problem}. Set output_dir to a folder that can."
            )
        refuse_common_folder(writers, folder)
