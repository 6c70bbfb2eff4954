"""``jit_mode_eval``: a model traced and frozen for evaluation."""

from __future__ import annotations

import copy
import logging
import time
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hftrain.core.task import TaskModule

if TYPE_CHECKING:
    from hftrain.trainer.eval_methods import EvalMethods

logger = logging.getLogger(__name__)


def is_traced(trainer: EvalMethods) -> bool:
    """Whether `evaluate` is asked to trace the model, and it is one that can be."""
    return bool(trainer.args.jit_mode_eval) and not isinstance(trainer.model, TaskModule)


def traced_model(trainer: EvalMethods, loader: Any) -> nn.Module:
    """Return the model to run, traced if that is asked for; note how long that took."""
    if not trainer.args.jit_mode_eval:
        return trainer.model
    started = time.time()
    model = trainer.torch_jit_model_eval(trainer.model, loader, training=False)
    trainer.jit_compilation_time = round(time.time() - started, 4)
    return model


def traced(trainer: EvalMethods, model: nn.Module, loader: Any) -> nn.Module:
    """Return the model traced with the loader's first batch and frozen; itself, with a warning, where that fails."""
    engine = trainer._running_engine()
    with ExitStack() as inside:
        inside.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # a tracer warns of what it fixes, and torch of tracing itself
        inside.enter_context(torch.no_grad())
        inside.enter_context(engine.autocast())
        inside.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
        torch.set_autocast_cache_enabled(False)  # a cached cast would become a constant of the trace
        try:
            batch = dict(trainer._prepare_inputs(next(iter(loader))))
            trace: Any = torch.jit.trace  # torch types it not at all
            frozen = torch.jit.freeze(trace(copy.copy(model).eval(), example_kwarg_inputs=batch, strict=False))
            for _ in range(2):  # the executor optimizes at the second call
                frozen(**batch)
        except (RuntimeError, TypeError, ValueError, NameError, IndexError, StopIteration) as error:
            logger.warning(
                "jit_mode_eval=True: %s cannot be traced and runs as it is (%s: %s).",
                type(model).__name__,
                type(error).__name__,
                error,
            )
            return model
    return frozen  # type: ignore[no-any-return]
