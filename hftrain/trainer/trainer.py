"""`Trainer`: the entry that users type; everything it does is an overridable method."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from hftrain.args.training import TrainingArguments
from hftrain.callbacks.flow import DefaultFlowCallback
from hftrain.callbacks.handler import CallbackHandler
from hftrain.callbacks.progress import progress_callback_class
from hftrain.core.task import TaskModule
from hftrain.errors import ConfigurationError, NotAvailableError
from hftrain.hardware.seeding import enable_full_determinism, set_seed
from hftrain.hardware.world import read_world
from hftrain.trainer.fitting import fit, refuse_resume_value
from hftrain.trainer.save_methods import SaveMethods
from hftrain.types.control import TrainerControl
from hftrain.types.outputs import TrainOutput
from hftrain.types.state import TrainerState

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from hftrain.core.data import DataModule


class Trainer(SaveMethods):
    """Train, evaluate and predict.

    Args:
        model: a `TaskModule`, or an `nn.Module` whose forward returns a loss.
        args: the arguments; default: ``TrainingArguments("tmp_trainer")``.
        data_collator: makes a batch from a list of samples.
        train_dataset: training data, when there is no ``datamodule``.
        eval_dataset: evaluation data, one set or a dict of named ones, when there is no ``datamodule``.
        model_init: makes a new model for every `train`, instead of ``model``.
        compute_loss_func: ``(outputs, labels, num_items_in_batch) -> loss``, for an `nn.Module`.
        callbacks: instances or classes, called after the default ones.
        optimizers: an optimizer and a scheduler to use; None for either takes the default.
        optimizer_cls_and_kwargs: a class and its keyword arguments, instead of ``args.optim``.
        datamodule: the data of a task.

    Raises:
        ConfigurationError: the parameters contradict each other.
        NotAvailableError: a parameter that this version does not support yet.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[[], nn.Module] | None = None,
        compute_loss_func: Callable[..., torch.Tensor] | None = None,
        compute_metrics: Any = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Any = None,
        *,
        datamodule: DataModule | None = None,
    ) -> None:
        _refuse_unavailable(
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        self.args = args if args is not None else TrainingArguments("tmp_trainer")
        set_log_level(self.args)
        self._engine = self._runner = self._checkpoints = self._loaded_checkpoint = None
        self._stages_set_up = set()
        self.run_id = None
        self._seed()
        self.model_init = model_init
        self.model = self.model_wrapped = self._first_model(model)
        self.datamodule, self.train_dataset, self.eval_dataset = datamodule, train_dataset, eval_dataset
        self._refuse_two_sources()
        self.data_collator = data_collator
        self.compute_loss_func = compute_loss_func
        self._given_optimizers = optimizers
        self.optimizer, self.lr_scheduler = optimizers
        self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        self._refuse_two_optimizers()
        _refuse_saving_on_each_of_several_nodes(self.args)
        self.label_names = list(self.args.label_names or ["labels"])
        self.is_in_train = False
        self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps
        self.state, self.control = TrainerState(), TrainerControl()
        self.state.is_local_process_zero = self.is_local_process_zero()
        self.state.is_world_process_zero = self.is_world_process_zero()
        default = [DefaultFlowCallback(), *(callbacks or []), progress_callback_class(self.args.disable_tqdm)()]
        self.callback_handler = CallbackHandler(default, self.model, None, self.optimizer, self.lr_scheduler)
        self.control = self.callback_handler.on_init_end(self.args, self.state, self.control)

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
        self.is_in_train = True
        try:
            return fit(self, resume_from_checkpoint or None)
        finally:
            self.is_in_train = False
            self._runner = self._checkpoints = None
            self._release()

    # ---- callbacks ----------------------------------------------------------------------------------

    def add_callback(self, callback: Any) -> None:
        """Add a callback, instance or class."""
        self.callback_handler.add_callback(callback)

    def pop_callback(self, callback: Any) -> Any:
        """Remove a callback, instance or class, and return it; None if there is none."""
        return self.callback_handler.pop_callback(callback)

    def remove_callback(self, callback: Any) -> None:
        """Remove a callback, instance or class."""
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

    def _first_model(self, model: nn.Module | None) -> nn.Module:
        if model is not None and self.model_init is not None:
            raise ConfigurationError("Both model and model_init were given. Pass the one that should be trained.")
        if model is None and self.model_init is None:
            raise ConfigurationError(
                "Trainer needs a model. Pass model=TaskModule or nn.Module, or model_init=a function that makes one."
            )
        made = model if model is not None else self.model_init()  # type: ignore[misc]
        if not hasattr(made, "state_dict") or not hasattr(made, "parameters"):
            raise ConfigurationError(f"model={made!r} is a {type(made).__name__}. Pass a TaskModule or an nn.Module.")
        return made

    def _renew(self) -> None:
        """Start `train` from a new model if there is `model_init`, and from a new optimizer unless one was given."""
        self._release()
        self.control = TrainerControl()
        self.optimizer, self.lr_scheduler = self._given_optimizers
        if self.model_init is not None:
            self._seed()
            self.model = self.model_wrapped = self.model_init()
        if self.args.gradient_checkpointing:
            self._enable_gradient_checkpointing()

    def _enable_gradient_checkpointing(self) -> None:
        enable = getattr(self.model, "gradient_checkpointing_enable", None)
        if enable is None:
            raise ConfigurationError(
                f"gradient_checkpointing=True needs a model with gradient_checkpointing_enable(), and "
                f"{type(self.model).__name__} has none. Define it, or set gradient_checkpointing=False."
            )
        enable(gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs or {})

    def _release(self) -> None:
        """Let go of what belonged to the run, so that `del trainer` frees the model."""
        if isinstance(self.model, TaskModule):
            self.model.unbind()
        self.model_wrapped = self.model
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    def _refuse_two_optimizers(self) -> None:
        if self.optimizer_cls_and_kwargs is not None and self._given_optimizers[0] is not None:
            raise ConfigurationError(
                "Both optimizers and optimizer_cls_and_kwargs were given, and they are incompatible. Pass one of them."
            )
        if self.model_init is not None and any(given is not None for given in self._given_optimizers):
            raise ConfigurationError(
                "Both model_init and optimizers were given: an optimizer made before belongs to another model. Pass "
                "optimizer_cls_and_kwargs, or override create_optimizer."
            )

    def _refuse_missing_evaluation(self) -> None:
        if self.args.eval_strategy == "no" and not self.args.eval_on_start:
            return
        if not isinstance(self.model, TaskModule):
            raise NotAvailableError(
                f"Evaluation in training needs a TaskModule in this version, and model is a "
                f'{type(self.model).__name__}. Set eval_strategy="no" and eval_on_start=False, or wrap the model in a '
                "TaskModule with an eval_step."
            )
        if not self._has_evaluation_data():
            raise ConfigurationError(
                f"eval_strategy={str(getattr(self.args.eval_strategy, 'value', self.args.eval_strategy))!r} needs data "
                "to evaluate on, and there is none. Pass eval_dataset=... or DataModule(eval=...), or set "
                'eval_strategy="no".'
            )


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


def _refuse_saving_on_each_of_several_nodes(args: TrainingArguments) -> None:
    num_nodes = read_world().num_nodes
    if args.save_on_each_node and num_nodes > 1:
        raise NotAvailableError(
            f"save_on_each_node=True on {num_nodes} nodes is not available in this version: the main process writes. "
            "Set save_on_each_node=False and output_dir to a folder that all nodes see."
        )


def _refuse_unavailable(**parameters: Any) -> None:
    for name, value in parameters.items():
        if value is not None:
            raise NotAvailableError(
                f"Trainer({name}=...) is not available in this version. Use a TaskModule, whose eval_step and "
                "configure_metrics do what it is for."
            )
