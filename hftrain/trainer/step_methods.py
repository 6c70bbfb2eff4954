"""What one training step does: overridable, called by the adapter once per micro-batch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from hftrain.core.batches import describe_batch
from hftrain.errors import TaskError
from hftrain.hardware.engine import create_engine
from hftrain.optim.optimizers import build_optimizer
from hftrain.optim.param_groups import decay_parameter_names, param_groups
from hftrain.optim.schedulers import get_scheduler
from hftrain.trainer.base import TrainerBase
from hftrain.trainer.settings import (
    check_autocast_backend,
    engine_settings,
    optimizer_settings,
    scheduler_arguments,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from hftrain.hardware.engine import Engine


class StepMethods(TrainerBase):
    """Loss, backward, optimizer and schedule."""

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        """Run forward and backward of one micro-batch and return its detached share of the step's loss.

        Args:
            model: the wrapped model.
            inputs: one batch as the loader gave it; not moved to the device yet.
            num_items_in_batch: counted items of the whole step; then the loss is not divided by the accumulation.
        """
        engine = self._running_engine()
        if not model.training:
            model.train()
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        if num_items_in_batch is None and self.current_gradient_accumulation_steps > 1:
            loss = loss / self.current_gradient_accumulation_steps
        engine.backward(loss)
        return loss.detach()  # type: ignore[no-any-return]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Return the loss of one batch: the model's "loss" entry, or its first output.

        Returns:
            The loss, or (loss, outputs) with ``return_outputs``.
        """
        if self.compute_loss_func is None:
            outputs = model(**inputs)
            loss = _loss_of(outputs, inputs)
        else:
            labels = inputs.pop("labels", None)
            outputs = model(**inputs)
            loss = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]:
        """Return the context in which the loss is computed: autocast, when the precision asks for it."""
        return self._running_engine().autocast()

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """Return the autocast context of the precision."""
        return self._running_engine().autocast()

    def _prepare_inputs(self, inputs: Any) -> Any:
        return self._running_engine().to_device(inputs)

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Set up `optimizer` and `lr_scheduler` for a run of ``num_training_steps`` optimizer steps."""
        self.create_optimizer()
        self.create_scheduler(num_training_steps=num_training_steps, optimizer=self.optimizer)

    def create_optimizer(self) -> torch.optim.Optimizer:
        """Set up `optimizer` unless there is one, and return it."""
        if self.optimizer is None:
            self.optimizer = self._running_engine().make_optimizer(self._new_optimizer)
        return self.optimizer

    def _new_optimizer(self) -> torch.optim.Optimizer:
        own = getattr(self.model, "configure_optimizer", None)
        if own is not None:
            optimizer = own([p for p in self.model.parameters() if p.requires_grad])
            if optimizer is not None:
                return optimizer  # type: ignore[no-any-return]
        groups = param_groups(
            self.model, self.args.weight_decay, decay_names=self.get_decay_parameter_names(self.model)
        )
        if self.optimizer_cls_and_kwargs is not None:
            optimizer_class, kwargs = self.optimizer_cls_and_kwargs
            return optimizer_class(groups, **kwargs)
        return build_optimizer(optimizer_settings(self.args), groups)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Set up `lr_scheduler` unless there is one, and return it."""
        if self.lr_scheduler is None:
            if optimizer is None:
                optimizer = self.create_optimizer()
            own = getattr(self.model, "configure_scheduler", None)
            self.lr_scheduler = own(optimizer, num_training_steps) if own is not None else None
            if self.lr_scheduler is None:
                self.lr_scheduler = get_scheduler(
                    optimizer=optimizer, **scheduler_arguments(self.args, num_training_steps)
                )
        return self.lr_scheduler

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of the parameters that weight decay applies to."""
        return decay_parameter_names(model)

    def get_num_trainable_parameters(self) -> int:
        """Return the number of trainable weights."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def get_learning_rates(self) -> list[float]:
        """Return the learning rate of each parameter group."""
        return [float(group["lr"]) for group in self._groups()]

    def get_optimizer_group(self, param: str | nn.Parameter | None = None) -> Any:
        """Return the optimizer group of a parameter (given itself or by name), or the parameters of all groups."""
        if param is None:
            return [group["params"] for group in self._groups()]
        wanted = dict(self.model.named_parameters())[param] if isinstance(param, str) else param
        for group in self._groups():
            if any(wanted is member for member in group["params"]):
                return group
        return None

    def _groups(self) -> list[dict[str, Any]]:
        if self.optimizer is None:
            raise ValueError("The optimizer does not exist yet. Call create_optimizer() or train() first.")
        return self.optimizer.param_groups

    def _running_engine(self) -> Engine:
        if self._engine is None:
            self._engine = self._new_engine()
        return self._engine

    def _new_engine(self) -> Engine:
        engine = create_engine(engine_settings(self.args))
        check_autocast_backend(self.args, engine.device.type)
        return engine


def _loss_of(outputs: Any, inputs: Any) -> Any:
    if isinstance(outputs, Mapping):
        if "loss" not in outputs:
            raise TaskError(
                f"The model returned no loss, only the keys {', '.join(outputs)}. The inputs were "
                f"{describe_batch(inputs)}. Pass labels in the batch, a compute_loss_func, or override compute_loss."
            )
        return outputs["loss"]
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs
