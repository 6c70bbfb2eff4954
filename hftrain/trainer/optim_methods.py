"""Optimizer and schedule of a run: how they are made and asked about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hftrain.optim.optimizers import make_optimizer, optimizer_class_and_kwargs
from hftrain.optim.param_groups import decay_parameter_names, param_groups
from hftrain.optim.schedulers import get_scheduler
from hftrain.trainer.device_methods import DeviceMethods
from hftrain.trainer.settings import (
    optimizer_settings,
    scheduler_arguments,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hftrain.args.training import TrainingArguments


class OptimMethods(DeviceMethods):
    """Optimizer and schedule."""

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
        named = self.optimizer_cls_and_kwargs
        optimizer_class, kwargs = named or self.get_optimizer_cls_and_kwargs(self.args, self.model)
        return make_optimizer(optimizer_class, groups, kwargs)

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
            self._created_lr_scheduler = True
        return self.lr_scheduler

    @staticmethod
    def get_optimizer_cls_and_kwargs(
        args: TrainingArguments, model: nn.Module | None = None
    ) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        """Return the class and the keyword arguments that ``args.optim`` and its companions ask for.

        An override may put "params" (or "model", or "optimizer_dict") among them: then the optimizer gets those
        instead of the two groups.
        """
        return optimizer_class_and_kwargs(optimizer_settings(args))

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of the parameters that weight decay applies to."""
        return decay_parameter_names(model)

    def get_num_trainable_parameters(self) -> int:
        """Return the number of trainable weights."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def get_learning_rates(self) -> list[float]:
        """Return the learning rate of each parameter group."""
        return [float(group["lr"]) for group in self._groups()]

    def _get_learning_rate(self) -> float:
        """Return the learning rate that rows show: that of the first parameter group."""
        return self.get_learning_rates()[0]

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
