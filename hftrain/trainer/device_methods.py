"""Where the Trainer computes: the engine of the run, and the overridable methods around it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from hftrain.core.task import TaskModule
from hftrain.hardware.engine import create_engine
from hftrain.hardware.tree import map_tree
from hftrain.trainer.accelerator import AcceleratorShim
from hftrain.trainer.base import TrainerBase
from hftrain.trainer.settings import check_autocast_backend, engine_settings, with_ddp_defaults

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from hftrain.hardware.engine import Engine


class DeviceMethods(TrainerBase):
    """Engine, placement and wrapping of the model, gathering."""

    # What subclasses ask before they use something that is not there.
    deepspeed = None
    hp_search_backend = None
    is_tp_enabled = False
    is_fsdp_xla_enabled = False
    is_fsdp_xla_v1_enabled = False
    is_fsdp_xla_v2_enabled = False

    @property
    def use_apex(self) -> bool:
        """Whether Apex does mixed precision."""
        return self.args.half_precision_backend == "apex" and self.args.fp16

    @property
    def use_cpu_amp(self) -> bool:
        """Whether autocast was asked for on the CPU by name."""
        return self.args.half_precision_backend == "cpu_amp" and (self.args.bf16 or self.args.fp16)

    def create_accelerator_and_postprocess(self) -> None:
        """Set up `accelerator`, once, when the Trainer is made."""
        self.accelerator = AcceleratorShim(self)
        self.gather_function = self.accelerator.gather_for_metrics
        self.is_fsdp_enabled = self.is_deepspeed_enabled = False
        self._start_accelerate()

    def _start_accelerate(self) -> None:
        """Let a subclass call accelerate's own functions (``set_seed``, ``gather_object``), which need its state."""
        accelerate: Any = sys.modules.get("accelerate")
        is_subclass = type(self).__module__.partition(".")[0] != __name__.partition(".")[0]
        if accelerate is None or not is_subclass or accelerate.state.AcceleratorState._shared_state:
            return
        here = self._running_engine()  # accelerate uses the process group that is there
        accelerate.Accelerator(cpu=here.device.type == "cpu", mixed_precision=self.accelerator.mixed_precision)

    def get_tp_size(self) -> int:
        """Return over how many processes one layer is spread: 1."""
        return 1

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        """Move a model to the device, in place. Called with the Trainer's own, if `place_model_on_device` is True."""
        model.to(device)
        # Moving to some devices unties what shared memory.
        if device.type == "xla" and hasattr(model, "tie_weights"):
            model.tie_weights()  # type: ignore[operator]

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> nn.Module:
        """Return the model as it is called in training: inside DDP if there are several processes, else itself.

        Args:
            model: the Trainer's own; in evaluation with ``jit_mode_eval`` its trace.
            training: False in `evaluate` and `predict`, which call the model as it is.
            dataloader: the batches that it will be called with.

        All ranks must call this.
        """
        if not training:
            return model
        steps = ("training_step",) if isinstance(model, TaskModule) else ()
        engine, optimizer = self._running_engine(), self.optimizer
        if optimizer is not None:  # it may come from the user
            engine.make_optimizer(lambda: optimizer)
        return engine.wrap(model, steps=steps, move=self.place_model_on_device)

    def _nested_gather(self, tensors: Any, name: str | None = None) -> Any:
        """Concatenate nested tensors over the processes, 0-d ones to 1-d. All ranks must call this."""
        return self._running_engine().gather(tensors)

    def _gather_and_numpify(self, tensors: Any, name: str | None = None) -> Any:
        """Concatenate nested tensors over the processes, as numpy arrays. All ranks must call this."""
        return map_tree(self._nested_gather(tensors, name), _as_array)

    def _running_engine(self) -> Engine:
        if self._engine is None:
            self._engine = self._new_engine()
        return self._engine

    def _new_engine(self) -> Engine:
        settings = engine_settings(self.args)
        model = getattr(self, "model", None)
        if model is not None and not isinstance(model, TaskModule):
            checkpoints = self.args.gradient_checkpointing or getattr(model, "is_gradient_checkpointing", False)
            settings = with_ddp_defaults(settings, checkpoints=bool(checkpoints))
        engine = create_engine(settings)
        check_autocast_backend(self.args, engine.device.type)
        return engine


def _as_array(tensor: torch.Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    # numpy has no bfloat16.
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
