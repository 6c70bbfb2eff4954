"""`Trainer.accelerator`: the names that subclasses written for accelerate use, over the engine of the run."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, RandomSampler

from hftrain.data.loaders import prepared_loader
from hftrain.errors import ConfigurationError, NotAvailableError
from hftrain.hardware.process_group import first
from hftrain.hardware.strategies import StepRouter
from hftrain.hardware.tree import leaves, map_tree
from hftrain.trainer.process_place import ProcessPlace
from hftrain.trainer.settings import dealing_of, loader_settings
from hftrain.trainer.stepping import hook_autocast

if TYPE_CHECKING:
    from hftrain.hardware.engine import Engine
    from hftrain.trainer.device_methods import DeviceMethods

INSTEAD = {
    "accumulate": "no_sync(model) around all micro-batches but the last; the Trainer's own loop does it by itself",
    "gradient_state": "sync_gradients and trainer.current_gradient_accumulation_steps",
    "scaler": "engine.scaler_state()",
    "unscale_gradients": "clip_grad_norm_, which unscales first",
    "log": "trainer.log",
    "trackers": "trainer.log and callbacks",
    "init_trackers": "trainer.log and callbacks",
    "get_tracker": "trainer.log and callbacks",
    "end_training": "a callback's on_train_end",
    "save": "safetensors.torch.save_file, or trainer.save_model: checkpoints hold no pickles",
    "save_model": "trainer.save_model",
    "save_state": "trainer.control.should_save = True",
    "load_state": "trainer.train(resume_from_checkpoint=...)",
    "register_for_checkpointing": "a callback that is an ExportableState",
    "skip_first_batches": "trainer.train(resume_from_checkpoint=...), which skips by index",
    "split_between_processes": "process_index and num_processes",
    "join_uneven_inputs": "even_batches=True in accelerator_config",
    "profile": "torch.profiler.profile in a callback",
    "project_dir": "trainer.args.output_dir",
    "dataloader_config": "trainer.args.accelerator_config",
}
"""What accelerate has and this lacks -> what to use."""


class AcceleratorShim(ProcessPlace):
    """What ``self.accelerator`` is in a Trainer: each call goes to the engine of the run.

    It holds no reference to the Trainer and makes the engine when it is first needed, so it may be used in a
    subclass's ``__init__``, in training and after it.

    Args:
        trainer: whose engine it is.

    Attributes:
        real_rows: while an evaluation is at a batch with fillers: how many of this process's rows count, and how many
            there are. None: all count.

    Raises:
        AttributeError: a name of accelerate that is not here; the message says what to use. Or the Trainer is gone.
    """

    def __init__(self, trainer: DeviceMethods) -> None:
        self._trainer = weakref.ref(trainer)
        self.real_rows: tuple[int, int] | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if hasattr(type(self), name):  # it is here, and could not answer: let it say why
            return object.__getattribute__(self, name)
        advice = INSTEAD.get(name, f"the engine that trainer._running_engine() returns, for example engine.{_NEAREST}")
        raise AttributeError(f"trainer.accelerator has no {name!r}. Use {advice}.")

    # ---- computing ---------------------------------------------------------------------------------

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Add the gradients of ``loss``, scaled in fp16; ``kwargs`` are those of `torch.Tensor.backward`.

        The loss is not divided by the accumulation steps: `Trainer.training_step` does that, or its override.
        """
        self._engine.backward(loss, **kwargs)

    def autocast(self, autocast_handler: Any = None) -> AbstractContextManager[Any]:
        """The context of the run's precision."""
        return self._engine.autocast()

    @property
    def sync_gradients(self) -> bool:
        """Whether this is the last micro-batch of its optimizer step."""
        return self._engine.is_synced

    @property
    def gradient_accumulation_steps(self) -> int:
        """1, as accelerate's is in a Trainer, which accumulates ``args.gradient_accumulation_steps`` by itself."""
        return 1

    @property
    def optimizer_step_was_skipped(self) -> bool:
        """Whether the latest optimizer step left the weights alone, because gradients overflowed in fp16."""
        return self._engine.step_was_skipped

    @contextmanager
    def no_sync(self, model: nn.Module | None = None) -> Iterator[None]:
        """Keep gradients on this process in the block's backward calls; they join those of the first one behind it."""
        self._engine.set_sync(False)
        try:
            yield
        finally:
            self._engine.set_sync(True)

    def clip_grad_norm_(self, parameters: Any, max_norm: float, norm_type: float = 2) -> Tensor:
        """Clip the gradients, unscaled in fp16, to a joint norm and return the norm before."""
        self._engine.unscale()
        return nn.utils.clip_grad_norm_(parameters, max_norm, norm_type=norm_type)

    def clip_grad_value_(self, parameters: Any, clip_value: float) -> None:
        """Clip each entry of the gradients, unscaled in fp16."""
        self._engine.unscale()
        nn.utils.clip_grad_value_(parameters, clip_value)

    # ---- how batches are dealt: accelerator_config's keys -----------------------------------------------

    @property
    def split_batches(self) -> bool:
        """Whether a batch size counts all processes together."""
        return dealing_of(self._owner.args).split_batches

    @property
    def dispatch_batches(self) -> bool | None:
        """Whether one process reads for all; None: where a data set is iterable only."""
        return dealing_of(self._owner.args).dispatch_batches

    @property
    def even_batches(self) -> bool:
        """Whether every process gets the same number of batches. May be set, for loaders that are made after that."""
        return dealing_of(self._owner.args).even_batches

    @even_batches.setter
    def even_batches(self, value: bool) -> None:
        dealing_of(self._owner.args).even_batches = value

    @property
    def use_seedable_sampler(self) -> bool:
        """Whether an epoch's order follows from seed and epoch alone."""
        return dealing_of(self._owner.args).use_seedable_sampler

    @property
    def non_blocking(self) -> bool:
        """Whether copies to the device do not wait for it."""
        return dealing_of(self._owner.args).non_blocking

    # ---- models, loaders ---------------------------------------------------------------------------

    def prepare(self, *args: Any, device_placement: list[bool] | None = None) -> Any:
        """Prepare each of ``args``: models and loaders as below, everything else (schedules) comes back as it is."""
        places = device_placement or [True] * len(args)
        prepared = tuple(self._prepare_one(arg, place) for arg, place in zip(args, places, strict=True))
        return prepared[0] if len(prepared) == 1 else prepared

    def prepare_model(
        self, model: nn.Module, device_placement: bool | None = None, evaluation_mode: bool = False
    ) -> nn.Module:
        """Move a model to the device, and with several processes wrap one that is trained.

        In `train` the Trainer's own model comes back as the run has it: the run wraps it by itself, once. The forward
        of any other computes in the run's precision and returns fp32.

        Args:
            model: any module.
            device_placement: False leaves it where it is.
            evaluation_mode: it is used without gradients, so it isn't wrapped (a reference or a reward model).
        """
        trainer = self._owner
        if model is trainer.model or model is trainer.model_wrapped:
            return self._own_model(trainer, evaluation_mode=evaluation_mode)
        if device_placement is not False:
            model.to(self.device)
        if self.native_amp:
            hook_autocast(self._engine, model)
        trains = not evaluation_mode and any(parameter.requires_grad for parameter in model.parameters())
        if trains and self.num_processes > 1:
            return DistributedDataParallel(model, device_ids=None if self.device.type == "cpu" else [self.device])
        return model

    def prepare_data_loader(self, data_loader: DataLoader[Any], device_placement: bool | None = None) -> Any:
        """Give every process its own part of a loader's samples; one that shuffles does so by seed and epoch.

        The loader of `Trainer.get_train_dataloader`, and any that shuffles, is dealt as training is, so that all
        processes have equally many batches. Others give every sample once. Batches are not moved to the device:
        `Trainer._prepare_inputs` does that.
        """
        trainer = self._owner
        is_asked_for = trainer.is_in_train and trainer._runner is None
        training = is_asked_for or isinstance(data_loader.sampler, RandomSampler)
        settings = loader_settings(trainer.args, self._engine, training=training)
        return prepared_loader(data_loader, settings, training=training)

    def prepare_optimizer(self, optimizer: torch.optim.Optimizer, device_placement: bool | None = None) -> Any:
        """Return the optimizer as it is.

        Raises:
            NotAvailableError: in fp16, unless it is the run's: nothing would unscale its gradients.
        """
        if self.mixed_precision == "fp16" and optimizer is not self._owner.optimizer:
            raise NotAvailableError(
                f"accelerator.prepare({type(optimizer).__name__}) in fp16: its step() would see scaled gradients. Step "
                "it with trainer._running_engine().optimizer_step(optimizer), or train in bf16."
            )
        return optimizer

    def prepare_scheduler(self, scheduler: Any) -> Any:
        """Return the schedule as it is."""
        return scheduler

    def unwrap_model(self, model: nn.Module, keep_fp32_wrapper: bool = True, keep_torch_compile: bool = True) -> Any:
        """Return the module inside DDP; the Trainer's own is ``trainer.model``.

        Args:
            model: any module.
            keep_fp32_wrapper: has no effect: there is no such wrapper.
            keep_torch_compile: False also takes off what `torch.compile` put around it.
        """
        while isinstance(model, (DistributedDataParallel, StepRouter)):
            model = model.module
        return model if keep_torch_compile else getattr(model, "_orig_mod", model)

    def get_state_dict(self, model: nn.Module, unwrap: bool = True) -> dict[str, Any]:
        """Return the weights by name, without the wrapper's prefix."""
        return (self.unwrap_model(model) if unwrap else model).state_dict()

    def free_memory(self, *objects: Any) -> list[None]:
        """Give cached memory back to the device; return a None for each object, to assign."""
        self._engine.empty_cache()
        return [None] * len(objects)

    clear = free_memory

    # ---- the other processes: all of them must call each of these --------------------------------------

    def gather(self, tensor: Any) -> Any:
        """Concatenate nested tensors over the processes along dimension 0, in rank order; sizes may differ.

        A 0-d tensor becomes 1-d. One process: the object itself.
        """
        return tensor if self.num_processes == 1 else self._engine.gather(tensor)

    def gather_for_metrics(self, input_data: Any, use_gather_object: bool = False) -> Any:
        """Like `gather`, without the rows of fillers; what is no tensor is gathered as objects, lists joined.

        Args:
            input_data: nested tensors, or any object.
            use_gather_object: gather as objects in any case.
        """
        if self.num_processes == 1:
            return input_data
        if use_gather_object or not _all_tensors(input_data):
            counts = self.real_rows is None or self.real_rows[0] > 0
            gathered = self._engine.gather_object(input_data if counts else None)
            parts = [part for part in gathered if part is not None]
            return [item for part in parts for item in part] if isinstance(input_data, list) else parts
        if self.real_rows is not None:
            real, rows = self.real_rows
            input_data = map_tree(input_data, lambda leaf: leaf[:real] if leaf.ndim and len(leaf) == rows else leaf)
        return self._engine.gather(input_data)

    def reduce(self, tensor: Any, reduction: str = "sum", scale: float = 1.0) -> Any:
        """Sum or average nested tensors over the processes, out of place; the result has their dtypes.

        Args:
            tensor: the same structure and shapes on every process.
            reduction: "sum" or "mean".
            scale: 1; accelerate reads it on TPUs only.
        """
        if scale != 1.0:
            raise ConfigurationError(f"accelerator.reduce(scale={scale}) has no effect here. Multiply the result.")
        if reduction not in ("sum", "mean"):
            raise ConfigurationError(f"accelerator.reduce(reduction={reduction!r}) is not known. Use 'sum' or 'mean'.")
        engine, size = self._engine, self.num_processes

        def reduced(leaf: Any) -> Any:
            if size == 1:
                return leaf.clone()
            total = engine.reduce_sum(leaf)
            return (total / size if reduction == "mean" else total).to(leaf.dtype)

        return map_tree(tensor, reduced)

    def pad_across_processes(self, tensor: Any, dim: int = 0, pad_index: int = 0, pad_first: bool = False) -> Any:
        """Pad nested tensors along ``dim`` to the longest of all processes, behind or (``pad_first``) before."""
        if self.num_processes == 1:
            return tensor
        engine = self._engine

        def padded(leaf: Any) -> Any:
            if leaf.ndim <= dim:
                return leaf
            longest = max(engine.gather_object(leaf.shape[dim]))
            shape = list(leaf.shape)
            shape[dim] = longest - shape[dim]
            fill = leaf.new_full(shape, pad_index)
            return torch.cat([fill, leaf] if pad_first else [leaf, fill], dim=dim)

        return map_tree(tensor, padded)

    def wait_for_everyone(self) -> None:
        """Wait for all processes."""
        self._engine.barrier()

    def main_process_first(self) -> AbstractContextManager[None]:
        """A block that the first process of all runs before the others."""
        return first(self.is_main_process)

    def local_main_process_first(self) -> AbstractContextManager[None]:
        """A block that the first process of each machine runs before the others."""
        return first(self.is_local_main_process)

    # ---- on some processes only ------------------------------------------------------------------------

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print on the first process of each machine."""
        if self.is_local_main_process:
            print(*args, **kwargs)

    def on_main_process(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function that only the first process of all runs; elsewhere it returns None."""
        return _only_where(lambda: self.is_main_process, function)

    def on_local_main_process(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function that only the first process of each machine runs; elsewhere it returns None."""
        return _only_where(lambda: self.is_local_main_process, function)

    # ---- inside ----------------------------------------------------------------------------------------

    @property
    def _owner(self) -> DeviceMethods:
        trainer = self._trainer()
        if trainer is None:
            raise AttributeError("The Trainer that this accelerator belongs to is gone. Keep the Trainer.")
        return trainer

    @property
    def _engine(self) -> Engine:
        return self._owner._running_engine()

    def _own_model(self, trainer: DeviceMethods, *, evaluation_mode: bool) -> nn.Module:
        if evaluation_mode:
            self._engine.place(trainer.model)
        elif not trainer.is_in_train and trainer.model_wrapped is trainer.model:
            trainer.model_wrapped = self._engine.wrap(trainer.model)
        return trainer.model_wrapped

    def _prepare_one(self, arg: Any, place: bool) -> Any:
        if isinstance(arg, nn.Module):
            return self.prepare_model(arg, device_placement=place)
        if isinstance(arg, DataLoader):
            return self.prepare_data_loader(arg)
        return self.prepare_optimizer(arg) if isinstance(arg, torch.optim.Optimizer) else arg


_NEAREST = "gather, reduce_sum, broadcast_object or autocast"


def _all_tensors(tree: Any) -> bool:
    found = [leaf for leaf in leaves(tree) if leaf is not None]
    return bool(found) and all(isinstance(leaf, Tensor) for leaf in found)


def _only_where(is_here: Callable[[], bool], function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) if is_here() else None

    return run
