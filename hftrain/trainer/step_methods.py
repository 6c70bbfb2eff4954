"""What one training step does: overridable, called by the adapter once per micro-batch."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hftrain.core.batches import describe_batch
from hftrain.core.losses import count_labels, scalar_loss
from hftrain.errors import DataError
from hftrain.trainer.noise import add_embedding_noise, input_embeddings
from hftrain.trainer.optim_methods import OptimMethods
from hftrain.trainer.stepping import (
    autocast_in_forward,
    call_model,
    is_causal_lm,
    loss_of,
    own_batch,
    past_of,
    prepared_by_entry,
    switch_to_training,
    take_labels,
)

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)


class StepMethods(OptimMethods):
    """Loss and backward of one micro-batch, and what is counted of a step."""

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        """Run forward and backward of one micro-batch and return its detached share of the step's loss.

        A loss that was not weighted by the count is divided by ``gradient_accumulation_steps``.

        Args:
            model: the wrapped model.
            inputs: one batch as the loader gave it; not moved to the device yet.
            num_items_in_batch: counted labels of the whole step, 0-d; None when they were not counted.
        """
        switch_to_training(model, self.optimizer)
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
            loss = scalar_loss("compute_loss", loss)
        divisor = 1 if self._is_weighted(num_items_in_batch) else self.args.gradient_accumulation_steps
        if divisor > 1:
            loss = loss / divisor
        self._running_engine().backward(loss)
        return loss.detach()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Return the loss of one batch: the model's own, or that of ``compute_loss_func`` or label smoothing.

        Those two get the labels, which are taken out of ``inputs``; without labels the loss is the model's. A model
        that accepts it is given ``num_items_in_batch``, and should then divide its summed loss by it.

        Returns:
            The loss, or (loss, outputs) with ``return_outputs``.

        Raises:
            TaskError: the model cannot be called with these entries, or returns no loss.
        """
        labels = take_labels(inputs) if self._has_own_loss() else None
        if self.model_accepts_loss_kwargs and num_items_in_batch is not None:
            inputs = {**inputs, "num_items_in_batch": num_items_in_batch}
        outputs = call_model(model, inputs, label_names=self.label_names)
        if self.args.past_index >= 0:
            self._past = past_of(outputs, self.args.past_index)
        loss = self._loss_of(outputs, labels, num_items_in_batch, inputs)
        return (loss, outputs) if return_outputs else loss

    def _loss_of(self, outputs: Any, labels: Any, num_items: Tensor | None, inputs: Any) -> Any:
        if labels is None:
            loss = loss_of(outputs, inputs)
        elif self.compute_loss_func is not None:
            loss = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items)
        else:
            assert self.label_smoother is not None  # or the labels would be the model's
            loss = self.label_smoother(outputs, labels, shift_labels=is_causal_lm(self.model))
        if num_items is not None and self._counts_over_ranks():
            # The ranks' gradients are averaged, and the count is already that of all of them.
            loss = loss * self._running_engine().world_size
        return loss

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Draw the micro-batches of one step and count their labels, those other than -100.

        Counted are the labels of this process, or with ``average_tokens_across_devices`` of all; then all ranks must
        call this. Called by `train` only if this is overridden or the count is used.

        Args:
            epoch_iterator: the batches of the epoch.
            num_batches: how many to draw; at an epoch's end fewer come.
            device: where the count should be.

        Returns:
            The batches, and the count as a 0-d tensor; None where no one uses it or the labels are no tensors.
        """
        batches = list(islice(epoch_iterator, num_batches))
        num_items = count_labels(batches) if self._uses_count() else None
        if num_items is None:
            return batches, None
        num_items = num_items.to(device, non_blocking=True)
        return batches, self._running_engine().reduce_sum(num_items) if self._counts_over_ranks() else num_items

    def _has_own_loss(self) -> bool:
        return self.compute_loss_func is not None or self.label_smoother is not None

    def _is_weighted(self, num_items: Tensor | None) -> bool:
        return self.compute_loss_func is not None or (num_items is not None and self.model_accepts_loss_kwargs)

    def _uses_count(self) -> bool:
        return self.model_accepts_loss_kwargs or self.compute_loss_func is not None

    def _counts_over_ranks(self) -> bool:
        return bool(self.args.average_tokens_across_devices) and self._uses_count()

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]:
        """Return the context in which the loss is computed: autocast, when the precision asks for it."""
        return self.autocast_smart_context_manager()

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """Return the autocast context of the precision.

        In half precision, a loss that is not the model's own (``compute_loss_func``, label smoothing, an override of
        `compute_loss`) is computed from fp32 outputs, outside autocast where the device is not the CPU.
        """
        engine = self._running_engine()
        is_models = type(self).compute_loss is StepMethods.compute_loss and not self._has_own_loss()
        if engine.settings.precision == "fp32" or is_models or self.args.torch_compile or self.args.jit_mode_eval:
            return engine.autocast()
        return autocast_in_forward(engine, self.model)

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Return a batch as the model gets it: on the device, with the memories of the batch before, if it has any.

        Raises:
            DataError: the batch has no entries.
        """
        inputs = self._prepare_input(inputs)
        if isinstance(inputs, (dict, Mapping)) and not inputs:
            takes = ", ".join(inspect.signature(self.model.forward).parameters)
            raise DataError(
                f"A batch has no entries left. {type(self.model).__name__}.forward takes {takes}: name the data set's "
                "columns so, or set remove_unused_columns=False."
            )
        if self.args.past_index >= 0 and self._past is not None:
            inputs["mems"] = self._past
        return inputs

    def _prepare_input(self, data: Any) -> Any:
        """Return nested data with its tensors on the device; a mapping comes back as another object.

        An override is called with the data, and with each entry of what it hands on to this.
        """
        move = self._running_engine().to_device
        if getattr(self._prepare_input, "__func__", None) is StepMethods._prepare_input:
            return own_batch(move(data), data)  # in one walk: this runs in every step
        return prepared_by_entry(data, self._prepare_input, move)

    # ---- noise on embeddings ------------------------------------------------------------------------

    def _activate_neftune(self, model: nn.Module) -> nn.Module:
        """Add noise to the input embeddings in train mode, until `_deactivate_neftune`. Called as training begins."""
        assert self.neftune_noise_alpha is not None  # asked for before this is called
        self.neftune_hook_handle = add_embedding_noise(model, self.neftune_noise_alpha)
        return model

    def _deactivate_neftune(self, model: nn.Module) -> None:
        """End the noise on the embeddings.

        Raises:
            ValueError: there is none.
        """
        if getattr(self, "neftune_hook_handle", None) is None:
            raise ValueError("There is no noise on the embeddings. Call trainer._activate_neftune(model) first.")
        self.neftune_hook_handle.remove()
        del self.neftune_hook_handle
        del input_embeddings(model).neftune_noise_alpha

    # ---- what is counted ----------------------------------------------------------------------------

    @staticmethod
    def num_tokens(train_dl: Any, max_steps: int | None = None) -> int:
        """Return the tokens that a loader's batches hold in "input_ids", by going through it.

        `train` does not call this: it counts what it reads.

        Args:
            train_dl: the loader.
            max_steps: take the first batch's tokens times this number instead.
        """
        num_tokens = 0
        for batch in train_dl:
            if "input_ids" not in batch:
                logger.warning("No tokens are counted: %s has no input_ids.", describe_batch(batch))
                return num_tokens
            if max_steps is not None:
                return int(batch["input_ids"].numel()) * max_steps
            num_tokens += batch["input_ids"].numel()
        return num_tokens

    def floating_point_ops(self, inputs: dict[str, Any]) -> float:
        """Return the operations of forward and backward of a batch, as the model's own method counts them; else 0.

        Called with every batch of a run whose model has the method, or if this is overridden.
        """
        own = getattr(self.model, "floating_point_ops", None)
        return own(inputs) if own is not None else 0

    def store_flos(self) -> None:
        """Move what was counted since the last call into ``state.total_flos``. All ranks must call this."""
        self.state.total_flos += self._sum_over_ranks(self.current_flos)
        self.current_flos = 0.0

    def _sum_over_ranks(self, number: float) -> float:
        engine = self._running_engine()
        if engine.world_size == 1:
            return number
        return float(engine.reduce_sum(torch.tensor(number, dtype=torch.float64, device=engine.device)))
