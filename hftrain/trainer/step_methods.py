"""What one training step does: overridable, called by the adapter once per micro-batch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from hftrain.core.batches import describe_batch
from hftrain.errors import TaskError
from hftrain.trainer.optim_methods import OptimMethods

if TYPE_CHECKING:
    from torch import Tensor, nn


class StepMethods(OptimMethods):
    """Loss and backward of one micro-batch."""

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


def _loss_of(outputs: Any, inputs: Any) -> Any:
    if isinstance(outputs, Mapping):
        if "loss" not in outputs:
            raise TaskError(
                f"The model returned no loss, only the keys {', '.join(outputs)}. The inputs were "
                f"{describe_batch(inputs)}. Pass labels in the batch, a compute_loss_func, or override compute_loss."
            )
        return outputs["loss"]
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs
