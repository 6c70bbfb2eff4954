"""Everything a training loop asks of the hardware, behind one object."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from hftrain.errors import HardwareError
from hftrain.hardware.averaging import average_gradients, broadcast_buffers
from hftrain.hardware.calls import compiled, inside, through
from hftrain.hardware.collectives import Alone, Collectives, Together
from hftrain.hardware.devices import batch_mover, resolve_device
from hftrain.hardware.gradients import GradientList
from hftrain.hardware.precision import (
    LossScaler,
    apply_tf32,
    cast_weights,
    check_half_precision,
    check_trainable_in_fp16,
    float_outputs,
    make_precision,
)
from hftrain.hardware.process_group import ensure_process_group
from hftrain.hardware.settings import EngineSettings, VendorName
from hftrain.hardware.strategies import StepRouter, make_strategy
from hftrain.hardware.world import read_world

logger = logging.getLogger(__name__)

T = TypeVar("T")
OptimizerT = TypeVar("OptimizerT", bound=Optimizer)


class Engine:
    """Places, wraps, runs and steps one module on the devices of this run.

    One device and several processes (DDP) differ in this object only. In fp32 on one device its calls add nothing
    measurable to the torch calls they make; `clip` and `zero_grad` are faster than torch's own.
    """

    _module: nn.Module | None
    _ddp: DistributedDataParallel | None
    _steps: dict[str, Callable[..., Any]]
    _compiled: dict[str, Callable[..., Any]]
    _optimizer: Optimizer | None
    _trainable: list[nn.Parameter]

    def __init__(self, settings: EngineSettings) -> None:
        """Join the process group, if there are several processes, and set up device and precision.

        All ranks must call this.

        Raises:
            HardwareError: this machine or the existing process group cannot do what is asked for.
        """
        world = read_world()
        self.settings = settings
        self.device: torch.device = resolve_device(settings.accelerator, world)
        self.world_size: int = world.world_size
        self.process_index: int = world.process_index
        self.local_process_index: int = world.local_process_index
        self.num_nodes: int = world.num_nodes
        self.is_world_process_zero: bool = world.is_world_process_zero
        self.is_local_process_zero: bool = world.is_local_process_zero
        if settings.precision != "fp32":
            check_half_precision(settings.precision, self.device)
        if settings.full_eval == "bf16":
            check_half_precision("bf16", self.device)
        ensure_process_group(settings.ddp_backend, settings.ddp_timeout_s, self.device)  # before Fabric is imported
        self._precision = make_precision(settings.precision, self.device)
        self._scaler: LossScaler | None = getattr(self._precision, "scaler", None)
        self._strategy = make_strategy(
            self.device,
            world,
            self._precision,
            ddp_options={
                "find_unused_parameters": settings.ddp_find_unused_parameters,
                "bucket_cap_mb": settings.ddp_bucket_cap_mb,
                "broadcast_buffers": settings.ddp_broadcast_buffers,
            },
        )
        self._collectives: Collectives = Together(self._strategy, self.device) if self.world_size > 1 else Alone()
        self.to_device: Callable[[Any], Any] = batch_mover(self.device, non_blocking=settings.non_blocking)
        """Move a nested batch to the device; the same object comes back when nothing has to move."""
        self._full_precision: AbstractContextManager[None] = nullcontext()
        self.is_synced = True
        """Whether the current micro-batch's backward averages gradients: it is the last of its step."""
        self.step_was_skipped = False
        """Whether the latest `optimizer_step` left the weights alone."""
        self._restore_tf32 = apply_tf32(settings.tf32)
        self._forget()

    # The module

    def place(self, module: nn.Module, *, move: bool = True) -> None:
        """Move parameters and buffers to the device, in place, unless they are all there.

        Call it before the optimizer is made. `unwrapped_step` then works without `wrap`: enough for evaluation.
        With ``move=False`` they stay where they are, as for a model whose layers are spread over devices.
        """
        if move and any(tensor.device != self.device for tensor in chain(module.parameters(), module.buffers())):
            self._strategy.module_to_device(module)
        if module is not self._module:
            self._compiled.clear()
        self._module = module

    def wrap(self, module: nn.Module, *, steps: Sequence[str] = (), move: bool = True) -> nn.Module:
        """Place the module and put the strategy's wrapper around it. All ranks must call this.

        With ``compile`` set, what `step` calls is compiled in place: the module's state dict keeps its names.
        DDP is left out for a module with nothing to train, which it would refuse.

        Args:
            module: the user's module. The parameters that require gradients now are those that `clip` looks at,
                together with the optimizer's.
            steps: names of methods that `step` will be asked for. Without any, the wrapper's own call is
                ``module(...)`` and `step` knows "forward" only.
            move: as in `place`.

        Returns:
            The module itself on one device; the `DistributedDataParallel` around it with several processes.
        """
        self.place(module, move=move)
        self._trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if self._scaler is not None:
            check_trainable_in_fp16(module)
        calls = {name: self._call(name) for name in steps or ("forward",)}
        self._ddp, self._steps = None, calls
        if self._trainable and self.world_size > 1:
            ddp = self._strategy.setup_module(StepRouter(module, calls) if steps else module)
            if not isinstance(ddp, DistributedDataParallel):  # pragma: no cover - Fabric's DDP strategy makes DDP
                raise HardwareError(f"The strategy returned {type(ddp).__name__}, expected DistributedDataParallel.")
            self._ddp, self._steps = ddp, {name: through(ddp, name) for name in steps} or {"forward": ddp}
            if self.settings.defer_sync:
                ddp.require_backward_grad_sync = ddp.require_forward_param_sync = False
        self._optimizer = self._optimizer if self._trains(self._optimizer) else None
        self._list_gradients()
        return module if self._ddp is None else self._ddp

    def step(self, name: str) -> Callable[..., Any]:
        """The callable that runs ``module.<name>(...)`` through the strategy's wrapper and autocast.

        In fp32 on one device this is the bound method itself. Take it once a run, not once a step.

        Raises:
            HardwareError: nothing was wrapped, or ``name`` was not among its steps.
        """
        call = self._steps.get(name)
        if call is None:
            raise HardwareError(
                f"step({name!r}) was not among the steps that were wrapped ({', '.join(self._steps) or 'none'}). "
                f"Name it: engine.wrap(module, steps=[{name!r}])."
            )
        return self._in_autocast(call)

    def unwrapped_step(self, name: str) -> Callable[..., Any]:
        """Like `step`, without DDP: for evaluation and prediction. Needs `place` or `wrap`, and no collective."""
        return self._in_autocast(self._call(name))

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward context of the run's precision; in fp32 one shared object that does nothing."""
        if self.settings.precision == "fp32":
            return self._full_precision
        context: AbstractContextManager[Any] = self._precision.forward_context()
        return context

    def full_eval(self, module: nn.Module) -> AbstractContextManager[None]:
        """A context that holds the module in ``settings.full_eval``'s format and gives back the exact weights after.

        It does nothing when that is None. Inputs may stay fp32: autocast is on inside. Outputs are half precision;
        `float_outputs` turns them back.
        """
        if self.settings.full_eval is None:
            return self._full_precision
        return cast_weights(module, self.settings.full_eval, self.device)

    def float_outputs(self, outputs: Any) -> Any:
        """Nested outputs with bf16 and fp16 tensors as fp32; the same object in an fp32 run without full_eval."""
        if self.settings.precision == "fp32" and self.settings.full_eval is None:
            return outputs
        return float_outputs(outputs)

    # The step

    def make_optimizer(self, factory: Callable[[], OptimizerT]) -> OptimizerT:
        """Make the optimizer that `clip`, `optimizer_step` and `zero_grad` work on.

        It is a factory because strategies that shard want the module placed, or wrapped, before.
        """
        optimizer = factory()
        self._optimizer = optimizer
        self._list_gradients()
        return optimizer

    def set_sync(self, enabled: bool) -> None:
        """Say whether the next forward and backward average gradients over the processes; nothing on one device.

        Call it before the forward: DDP readies its hooks there.
        """
        self.is_synced = enabled
        if self._ddp is not None:
            self._ddp.require_backward_grad_sync = enabled and not self.settings.defer_sync

    def average_gradients(self) -> None:
        """Average gradients over the processes where ``defer_sync`` left that to this call; and DDP's buffers.

        All ranks must call this.
        """
        if self._ddp is None or not self.settings.defer_sync:
            return
        average_gradients(self._trainable)
        if self.settings.ddp_broadcast_buffers is not False:
            broadcast_buffers(self._ddp.module.buffers())

    def backward(self, loss: Tensor, **options: Any) -> None:
        """Add the gradients of ``loss``, scaled in fp16; ``options`` are those of `torch.Tensor.backward`."""
        if self._scaler is None:
            loss.backward(**options)  # type: ignore[no-untyped-call]
        else:
            self._precision.backward(loss, None, **options)

    def unscale(self) -> None:
        """Divide the run's gradients by the loss scale, unless that was done since the last step; only fp16 has one."""
        if self._scaler is not None and self._optimizer is not None:
            self._scaler.unscale_once(self._optimizer)

    def clip(self, max_norm: float) -> Tensor | None:
        """Scale the gradients down to a joint 2-norm of ``max_norm``, after unscaling them in fp16.

        No host read, no error for a non-finite norm: an fp16 step is then skipped by `optimizer_step`.

        Returns:
            The norm before clipping, 0-d, on the device; None when there is no gradient.
        """
        optimizer = self._optimizer
        if optimizer is not None and len(optimizer.param_groups) != self._num_groups:
            self._list_gradients()
        self.unscale()
        return self._gradients.clip(max_norm)

    def optimizer_step(self, optimizer: Optimizer) -> bool:
        """Step, and say whether the weights moved: fp16 skips a step whose gradients overflowed.

        The overflow flag is the one value that an fp16 step reads from the device; fp32 and bf16 read none.
        """
        if self._scaler is None:
            optimizer.step()
            return True
        stepped = self._scaler.step_if_finite(optimizer)
        self.step_was_skipped = not stepped
        return stepped

    def zero_grad(self, optimizer: Optimizer) -> None:
        """Set all gradients to None: those of the wrapped module and those of the optimizer."""
        if optimizer is not self._optimizer or len(optimizer.param_groups) != self._num_groups:
            self._optimizer = optimizer
            self._list_gradients()
        if self._clears_itself:
            optimizer.zero_grad()
        self._gradients.clear()

    def scaler_state(self) -> dict[str, Any] | None:
        """The loss scaler's state, plain numbers; None without fp16. Reads the device."""
        return None if self._scaler is None else self._scaler.state_dict()

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        """Restore what `scaler_state` returned; without fp16 there is nothing to restore, and a line says so."""
        if self._scaler is None:
            logger.info("The checkpoint holds an fp16 loss scale; this run (%s) has none.", self.settings.precision)
            return
        self._scaler.load_state_dict(state)

    # The other processes: all ranks must call each of these; on one process each is the identity

    def reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, out of place, in float64 or int64. One process: the tensor itself."""
        return self._collectives.reduce_sum(tensor)

    def gather(self, tree: Any) -> Any:
        """Concatenate nested tensors over the processes along dimension 0, in rank order; sizes may differ.

        A 0-d tensor becomes shape (number of processes,), on one process too. None stays None.
        """
        return self._collectives.gather(tree)

    def gather_object(self, obj: T) -> list[T]:
        """One object of each process, in rank order."""
        return self._collectives.gather_object(obj)

    def broadcast_object(self, obj: T, src: int = 0) -> T:
        """The object of process ``src``, everywhere."""
        return self._collectives.broadcast_object(obj, src)

    def scatter_object(self, objects: list[T] | None) -> T:
        """This process's of the objects that the main process passes, one for each; the others pass None."""
        return self._collectives.scatter_object(objects)

    def barrier(self) -> None:
        """Wait for all processes."""
        self._collectives.barrier()

    # The device

    def empty_cache(self) -> None:
        """Give cached, unused memory back to the device; nothing on CPU."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def synchronize(self) -> None:
        """Wait until the device has done what it was given; nothing on CPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def close(self) -> None:
        """Let go of module and optimizer and restore torch's tf32 switches. May be called twice.

        The process group stays for the next run; it is destroyed at exit.
        """
        if self._restore_tf32 is not None:
            self._restore_tf32()
            self._restore_tf32 = None
        self._forget()

    def _forget(self) -> None:
        self._module = self._ddp = self._optimizer = None
        self._steps, self._compiled, self._trainable = {}, {}, []
        self._list_gradients()

    def _list_gradients(self) -> None:
        groups = [] if self._optimizer is None else self._optimizer.param_groups
        self._num_groups = len(groups)
        self._gradients = GradientList(chain(self._trainable, *(group["params"] for group in groups)))
        self._clears_itself = self._optimizer is not None and type(self._optimizer).zero_grad is not Optimizer.zero_grad

    def _trains(self, optimizer: Optimizer | None) -> bool:
        if optimizer is None:
            return False
        ours = {id(parameter) for parameter in self._trainable}
        return any(id(parameter) in ours for group in optimizer.param_groups for parameter in group["params"])

    def _call(self, name: str) -> Callable[..., Any]:
        """What runs the named method: the module itself for "forward", so that its hooks run; compiled if asked."""
        module = self._module
        if module is None:
            raise HardwareError(f"step {name!r} was asked for before engine.place or engine.wrap was given a module.")
        call: Callable[..., Any] = module if name == "forward" else getattr(module, name)
        if not self.settings.compile:
            return call
        if name not in self._compiled:
            asked = {"backend": self.settings.compile_backend, "mode": self.settings.compile_mode}
            self._compiled[name] = compiled(call, {key: value for key, value in asked.items() if value is not None})
        return self._compiled[name]

    def _in_autocast(self, call: Callable[..., Any]) -> Callable[..., Any]:
        return call if self.settings.precision == "fp32" else inside(self._precision.forward_context, call)


def create_engine(settings: EngineSettings) -> Engine:
    """Make the engine of a run. All ranks must call this.

    Raises:
        HardwareError: this machine or the existing process group cannot do what is asked for.
    """
    if settings.vendor is None:
        return Engine(settings)
    kind: type[Engine] = getattr(importlib.import_module("hftrain.hardware.vendor_engines"), _VENDORS[settings.vendor])
    return kind(settings)


_VENDORS: dict[VendorName, str] = {"apex": "ApexEngine", "ipex": "IpexEngine", "xla": "XlaEngine"}
