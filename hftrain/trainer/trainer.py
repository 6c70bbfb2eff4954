"""`Trainer`: the entry that users type; everything it does is an overridable method."""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

from hftrain.args.training import TrainingArguments
from hftrain.callbacks.flow import DefaultFlowCallback
from hftrain.callbacks.handler import CallbackHandler
from hftrain.callbacks.progress import progress_callback_class
from hftrain.callbacks.tpu import TpuMetricsCallback
from hftrain.core.losses import LabelSmoother
from hftrain.core.task import TaskModule
from hftrain.data.dealing import length_of
from hftrain.errors import ConfigurationError, NotAvailableError
from hftrain.hardware.seeding import enable_full_determinism, set_seed
from hftrain.trainer.construction import (
    accepts_loss_kwargs,
    can_return_loss,
    check_arguments,
    check_collator,
    check_data,
    check_metrics,
    check_model,
    check_model_sources,
    check_optimizers,
    default_collator,
    is_model_parallel,
    label_names_of,
    no_evaluation_data,
    warn_of_generating,
)
from hftrain.trainer.fitting import fit, refuse_resume_value
from hftrain.trainer.later_methods import LaterMethods
from hftrain.trainer.memory import MemoryTracker
from hftrain.trainer.noise import embedding_noise
from hftrain.trainer.overrides import check_overrides
from hftrain.trainer.run_length import InitialValues, initial_values
from hftrain.trainer.settings import loop_settings
from hftrain.trainer.stepping import check_task_arguments, check_task_overrides
from hftrain.trainer.tracking import tracking_for
from hftrain.trainer.watching import watching_for
from hftrain.types.choices import DebugOption
from hftrain.types.control import TrainerControl
from hftrain.types.outputs import TrainOutput
from hftrain.types.state import TrainerState

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from hftrain.core.data import DataModule


class Trainer(LaterMethods):
    """Train, evaluate and predict.

    Args:
        model: a `TaskModule`, or an `nn.Module` whose forward returns a loss.
        args: the arguments; default: ``TrainingArguments("tmp_trainer")``.
        data_collator: makes a batch from a list of samples; default: `DataCollatorWithPadding` if ``processing_class``
            is a tokenizer or a feature extractor of sequences, else `default_data_collator` (torch's for a task).
        train_dataset: training data, when there is no ``datamodule``.
        eval_dataset: evaluation data, one set or a dict of named ones, when there is no ``datamodule``.
        processing_class: tokenizer or processor, saved with the model.
        model_init: makes a new model for every `train`, instead of ``model``; takes nothing, or the trial of a search.
        compute_loss_func: ``(outputs, labels, num_items_in_batch) -> loss``, for an `nn.Module`.
        compute_metrics: `EvalPrediction` -> dict of numbers, or torchmetrics (one, a collection, a dict of them).
        callbacks: instances, classes, or names of installed plugins, called after the default ones.
        optimizers: an optimizer and a scheduler to use; None for either takes the default.
        optimizer_cls_and_kwargs: a class and its keyword arguments, instead of ``args.optim``.
        preprocess_logits_for_metrics: ``(logits, labels) -> logits``, before they are kept for the metrics.
        datamodule: the data of a task.
        tokenizer: deprecated, use ``processing_class``.

    Raises:
        ConfigurationError: the parameters contradict each other or the arguments.
        NotAvailableError: something is asked for that this version does not support yet.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_loss_func: Callable[..., torch.Tensor] | None = None,
        compute_metrics: Any = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
        *,
        datamodule: DataModule | None = None,
        tokenizer: Any = None,
    ) -> None:
        check_overrides(type(self))
        self.args = args if args is not None else TrainingArguments("tmp_trainer")
        check_arguments(self.args)
        set_log_level(self.args)
        self._start_without_a_run()
        self.create_accelerator_and_postprocess()
        with self._memory_tracker.stage("init"):
            self._seed()
            check_model_sources(model, model_init)
            self.model_init = model_init
            first = model if model is not None else self.call_model_init()
            self._read_model(first)
            self._take_model(first)
            self.processing_class = _processing_class(processing_class, tokenizer)
            self.datamodule, self.train_dataset, self.eval_dataset = datamodule, train_dataset, eval_dataset
            check_collator(data_collator)
            self.data_collator = data_collator or default_collator(self.model, self.processing_class)
            self.compute_loss_func, self.compute_metrics = compute_loss_func, compute_metrics
            self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
            self._read_loss_arguments()
            self._given_optimizers = optimizers
            self.optimizer, self.lr_scheduler = optimizers
            self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
            self._check_parameters()
            warn_of_generating(self.args, type(self))
            self._start_callbacks(callbacks or [])

    def _start_without_a_run(self) -> None:
        """Set what belongs to a run, before there is one."""
        self._engine = self._runner = self._checkpoints = self._loaded_checkpoint = self._best_before_save = None
        self._stages_set_up, self._kept_loaders = set(), {}
        self.run_id = self._early_run_id = self.hp_name = self.hub_model_id = self._signature_columns = None
        self.model_preparation_time = self.jit_compilation_time = self._ignore_keys_for_eval = None
        self._past = self._token_counter = self._interrupts = self._loss_arguments = None
        self.is_in_train = self._created_lr_scheduler = self._said_why_at_once = False
        self.current_flos = 0.0
        self._train_batch_size = self.args.train_batch_size
        self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps
        self._memory_tracker = MemoryTracker(self.args)

    def _read_model(self, model: nn.Module) -> None:
        """Read from the model where it lies, and what evaluation and loss depend on; subclasses set these otherwise."""
        check_model(model)
        self.is_model_parallel = is_model_parallel(model, lambda: self.args.device)
        self.place_model_on_device = self.args.place_model_on_device and not self.is_model_parallel
        self.model_accepts_loss_kwargs = accepts_loss_kwargs(model)
        self.label_names = list(self.args.label_names) if self.args.label_names is not None else label_names_of(model)
        self.can_return_loss = can_return_loss(model)

    def _take_model(self, model: nn.Module) -> None:
        """Keep the model, and place it."""
        check_model(model)
        self.model = self.model_wrapped = model
        if self.place_model_on_device and not isinstance(model, TaskModule):
            self._move_model_to_device(model, self.args.device)

    def _read_loss_arguments(self) -> None:
        """Set what two arguments ask for, unless they are as they were: the attributes may have been set otherwise."""
        asked = (self.args.label_smoothing_factor, self.args.neftune_noise_alpha)
        if asked == self._loss_arguments:
            return
        self._loss_arguments = asked
        smoothing, self.neftune_noise_alpha = asked
        self.label_smoother = LabelSmoother(smoothing) if smoothing else None

    def _check_parameters(self) -> None:
        self._refuse_two_sources()
        check_optimizers(self._given_optimizers, self.optimizer_cls_and_kwargs, self.model_init)
        has_evaluation = self.datamodule is not None or self.eval_dataset is not None
        check_data(self.args, self.train_dataset, has_evaluation=has_evaluation)
        check_metrics(self.args, self.compute_metrics)
        check_task_arguments(self.model, self.args, self.compute_loss_func)
        check_task_overrides(self.model, type(self))

    def _start_callbacks(self, callbacks: list[Any]) -> None:
        self.state, self.control = TrainerState(), TrainerControl()
        self.state.is_local_process_zero = self.is_local_process_zero()
        self.state.is_world_process_zero = self.is_world_process_zero()
        self._tracking = tracking_for(self)
        tracking = [] if self._tracking is None else [self._tracking, *watching_for(self._tracking)]
        tpu = [TpuMetricsCallback()] if DebugOption.TPU_METRICS_DEBUG in self.args.debug else []
        self.callback_handler = CallbackHandler(
            [DefaultFlowCallback(), *tracking, *callbacks, *tpu],
            self.model,
            self.processing_class,
            self.optimizer,
            self.lr_scheduler,
        )
        self.add_callback(progress_callback_class(self.args.disable_tqdm))
        self.control = self.callback_handler.on_init_end(self.args, self.state, self.control)

    @property
    def tokenizer(self) -> Any:
        """Deprecated name of ``processing_class``."""
        warnings.warn("Trainer.tokenizer is deprecated. Use processing_class.", FutureWarning, stacklevel=2)
        return self.processing_class

    @tokenizer.setter
    def tokenizer(self, processing_class: Any) -> None:
        warnings.warn("Trainer.tokenizer is deprecated. Set processing_class.", FutureWarning, stacklevel=2)
        self.processing_class = processing_class

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Return a new model from ``model_init``, which takes nothing, or the trial of a search.

        Raises:
            ConfigurationError: it takes more, or returned no model.
        """
        assert self.model_init is not None  # the callers check
        takes = list(inspect.signature(self.model_init).parameters.values())
        needed = [parameter.name for parameter in takes if parameter.default is parameter.empty]
        if len(needed) > 1:
            names = ", ".join(needed)
            raise ConfigurationError(f"model_init takes {names}. It should have 0 parameters, or 1 for the trial.")
        model = self.model_init(trial) if needed or len(takes) == 1 else self.model_init()
        if model is None:
            raise ConfigurationError("model_init returned None. Return the model.")
        return model

    # ---- training ----------------------------------------------------------------------------------

    def train(
        self,
        resume_from_checkpoint: str | bool | os.PathLike[str] | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
        **kwargs: Any,
    ) -> TrainOutput:
        """Train until the arguments' horizon, or until a callback stops it.

        Args:
            resume_from_checkpoint: a checkpoint's path; True: the newest in ``output_dir``; "auto": like True, or a
                fresh start when there is none. None takes ``args.resume_from_checkpoint`` if that is "auto".
            trial: of a hyperparameter search; not available yet.
            ignore_keys_for_eval: outputs of a model that are not predictions.

        All ranks must call this.
        """
        if "model_path" in kwargs:
            warnings.warn(
                "train(model_path=...) is deprecated. Pass resume_from_checkpoint=...", FutureWarning, stacklevel=2
            )
            resume_from_checkpoint = kwargs.pop("model_path")
        if kwargs:
            raise TypeError(f"train() got unexpected keyword arguments: {', '.join(sorted(kwargs))}.")
        if trial is not None:
            raise NotAvailableError("train(trial=...) belongs to hyperparameter search, which this version lacks.")
        refuse_resume_value(resume_from_checkpoint)
        if resume_from_checkpoint is None and self.args.resume_from_checkpoint == "auto":
            resume_from_checkpoint = "auto"
        if hasattr(resume_from_checkpoint, "__fspath__"):
            resume_from_checkpoint = os.fspath(resume_from_checkpoint)  # type: ignore[arg-type]
        self.args.validate()
        self._renew()
        self.is_in_train, self._ignore_keys_for_eval = True, ignore_keys_for_eval
        try:
            with embedding_noise(self):
                return fit(self, resume_from_checkpoint or None)
        finally:
            self.is_in_train = False
            self._runner = self._checkpoints = self._past = self._token_counter = None
            self._release()

    def get_total_train_batch_size(self, args: TrainingArguments) -> int:
        """Return the samples of one optimizer step: per batch, times micro-batches, times processes."""
        return self._train_batch_size * loop_settings(args).accumulation_steps * args.world_size

    def set_initial_training_values(
        self, args: TrainingArguments, dataloader: Any, total_train_batch_size: int
    ) -> InitialValues:
        """Return how long a run is; `train` asks here, so an override decides it.

        Returns:
            Epochs (started), optimizer steps per epoch, samples per epoch, samples of the run, whether the epochs
            decide (and not ``max_steps``), batches per epoch (None: the loader has no length), optimizer steps.

        Raises:
            ConfigurationError: the loader has no length and ``max_steps`` is not set.
        """
        num_examples = None if length_of(dataloader) is None else self.num_examples(dataloader)
        return initial_values(args, dataloader, num_examples=num_examples, total=total_train_batch_size)

    # ---- callbacks ----------------------------------------------------------------------------------

    def add_callback(self, callback: Any) -> None:
        """Add a callback: instance, class, or the name of an installed plugin (``name`` or ``dist:name``)."""
        self.callback_handler.add_callback(callback)

    def pop_callback(self, callback: Any) -> Any:
        """Remove a callback, named as in `add_callback`, and return it; None if there is none."""
        return self.callback_handler.pop_callback(callback)

    def remove_callback(self, callback: Any) -> None:
        """Remove a callback, named as in `add_callback`."""
        self.callback_handler.remove_callback(callback)

    # ---- where it runs ------------------------------------------------------------------------------

    def is_local_process_zero(self) -> bool:
        """Whether this is the main process of its machine."""
        return self.args.local_process_index == 0

    def is_world_process_zero(self) -> bool:
        """Whether this is the main process of all."""
        return self.args.process_index == 0

    # ---- inside -------------------------------------------------------------------------------------

    def _seed(self) -> None:
        (enable_full_determinism if self.args.full_determinism else set_seed)(self.args.seed)

    def _renew(self) -> None:
        """Start `train` with a new schedule unless one was given, and from a new model if there is `model_init`.

        Without it the optimizer goes on as it is, like the weights; so one that was set beforehand is used.
        """
        self._check_parameters()  # arguments may have changed since the Trainer was made
        self._read_loss_arguments()
        self._release()
        self.control = TrainerControl()
        self._train_batch_size = self.args.train_batch_size
        if self._created_lr_scheduler:
            self.lr_scheduler, self._created_lr_scheduler = None, False
        if self.model_init is not None:
            self.optimizer = self.lr_scheduler = None
            self._seed()
            self._take_model(self.call_model_init())
        if self.args.gradient_checkpointing:
            self._start_recomputing()

    def _start_recomputing(self) -> None:
        enable = getattr(self.model, "gradient_checkpointing_enable", None)
        if enable is None:
            raise ConfigurationError(
                f"gradient_checkpointing=True needs a model with gradient_checkpointing_enable(), and "
                f"{type(self.model).__name__} has none. Define it, or set gradient_checkpointing=False."
            )
        enable(gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs)

    def _release(self) -> None:
        """Let go of what belonged to the run, so that `del trainer` frees the model."""
        if isinstance(self.model, TaskModule):
            self.model.unbind()
        self.model_wrapped = self.model
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    def _refuse_missing_evaluation(self) -> None:
        strategy = str(getattr(self.args.eval_strategy, "value", self.args.eval_strategy))
        is_asked = strategy != "no" or self.args.eval_on_start
        if is_asked and not self._has_evaluation_data():
            raise no_evaluation_data(f"eval_strategy={strategy!r}" if strategy != "no" else "eval_on_start=True")


def set_log_level(args: TrainingArguments) -> None:
    """Give hftrain's logger the level that the arguments name for this process; "passive" leaves it alone.

    A level asks for lines, so where nobody set up logging they go to stderr.
    """
    package_logger = logging.getLogger("hftrain")
    level = args.get_process_log_level()
    if level == package_logger.getEffectiveLevel():
        return
    package_logger.setLevel(level)
    if not package_logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        package_logger.addHandler(handler)


def _processing_class(processing_class: Any, tokenizer: Any) -> Any:
    if tokenizer is None:
        return processing_class
    if processing_class is not None:
        raise ConfigurationError("Both processing_class and tokenizer, its old name, were given. Pass the first.")
    warnings.warn("Trainer(tokenizer=...) is deprecated. Pass processing_class=...", FutureWarning, stacklevel=3)
    return tokenizer
