"""One pass over evaluation data: what the Trainer's evaluation loops and its prediction step are made of."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hftrain.core.batches import batch_size, describe_batch
from hftrain.core.evaluator import Collected, Evaluator, Outcome, Sink, Step, TaskStep
from hftrain.core.metrics import MetricSet, Output, are_metrics, has_answers
from hftrain.core.predictions import map_nest
from hftrain.core.speed import speed_metrics
from hftrain.core.task import TaskModule
from hftrain.data.epochs import EpochLoader
from hftrain.errors import ConfigurationError, TaskError
from hftrain.trainer.stepping import direct_calls_in_precision
from hftrain.trainer.tracing import is_traced, traced_model
from hftrain.types.outputs import EvalLoopOutput

if TYPE_CHECKING:
    from hftrain.trainer.eval_methods import EvalMethods

logger = logging.getLogger(__name__)

PREDICTION = "Prediction"
"""The description under which `predict` runs the loop: predictions are returned then, labels or not."""


# ---- the pass ---------------------------------------------------------------------------------------


def timed_loop(
    trainer: EvalMethods, loader: Any, description: str, *, prefix: str, ignore_keys: list[str] | None, **options: Any
) -> EvalLoopOutput:
    """Run the Trainer's evaluation loop over ``loader`` and add how fast it was. All ranks must call this."""
    started, args, prepared_before = time.time(), trainer.args, trainer.model_preparation_time
    loop = trainer.prediction_loop if args.use_legacy_prediction_loop else trainer.evaluation_loop
    output = loop(loader, description=description, ignore_keys=ignore_keys, metric_key_prefix=prefix, **options)
    metrics, num_samples = output.metrics, output.num_samples
    assert metrics is not None  # only the annotation of the documented tuple allows it
    assert num_samples is not None
    if prepared_before is None:
        started += trainer.model_preparation_time or 0.0
    if args.jit_mode_eval:
        started += trainer.jit_compilation_time or 0.0
    steps = math.ceil(num_samples / (args.eval_batch_size * args.world_size))
    metrics.update(speed_metrics(prefix, started, num_samples=num_samples, num_steps=steps))
    return output


def run_loop(
    trainer: EvalMethods,
    loader: Any,
    description: str,
    *,
    loss_only: bool | None,
    ignore_keys: list[str] | None,
    prefix: str,
    with_preparation: bool = True,
) -> EvalLoopOutput:
    """Run the prediction step over ``loader`` and compute the metrics. All ranks must call this.

    Args:
        loader: a DataLoader, or any iterable of batches.
        description: "Prediction" keeps predictions for the caller; otherwise they are kept for a function of all.
        loss_only: None takes ``args.prediction_loss_only``.
        ignore_keys: as `Trainer.prediction_step` takes it.
        prefix: put before every metric's name that lacks it.
        with_preparation: add what placing and tracing the model took.
    """
    engine, handler = trainer._running_engine(), trainer.callback_handler
    loss_only = trainer.args.prediction_loss_only if loss_only is None else loss_only
    handler.eval_dataloader = loader
    handler.bind(trainer.args, trainer.state, trainer.control)
    source = EpochLoader(loader, seed=trainer.args.seed, is_training=False)
    _place(trainer)
    with _step(trainer, loader, description, loss_only=loss_only, ignore_keys=ignore_keys) as (step, sinks):
        collected = _collected(trainer, description, loss_only=loss_only, num_samples=source.num_samples)
        sinks += [*_streamed(trainer, loss_only=loss_only), collected]
        needs_labels = trainer.compute_metrics is not None and not loss_only and description != PREDICTION
        whole_step = _with_extras(trainer, _with_labels(trainer, step) if needs_labels else step)
        evaluator = Evaluator(engine=engine, events=handler, interrupts=trainer._interrupts)
        outcome = evaluator.run(source, _telling_fillers(trainer, whole_step), sinks)
    return EvalLoopOutput(
        predictions=collected.arrays.get("preds"),
        label_ids=collected.arrays.get("target"),
        metrics=_named(trainer, outcome, prefix, with_preparation=with_preparation),
        num_samples=outcome.num_samples,
    )


def _place(trainer: EvalMethods) -> None:
    """Bring the model to where it runs; the first time, unless training did, note how long that took."""
    if trainer.is_in_train:
        return
    started = time.time()
    trainer._running_engine().place(trainer.model, move=trainer.place_model_on_device)
    has_trained = trainer.state.max_steps > 0
    if trainer.model_preparation_time is None and not has_trained and not is_traced(trainer):
        trainer.model_preparation_time = round(time.time() - started, 4)


def _named(trainer: EvalMethods, outcome: Outcome, prefix: str, *, with_preparation: bool) -> dict[str, Any]:
    """Return every metric under its full name; what a function calls "loss" takes the place of the mean loss."""
    metrics = dict(outcome.metrics)
    if outcome.loss is not None:
        metrics[f"{prefix}_loss"] = outcome.loss
    for name in ("jit_compilation_time", "model_preparation_time") if with_preparation else ():
        if getattr(trainer, name) is not None:
            metrics[f"{prefix}_{name}"] = getattr(trainer, name)
    for name in list(metrics):
        if not name.startswith(f"{prefix}_"):
            metrics[f"{prefix}_{name}"] = metrics.pop(name)
    return metrics


# ---- what becomes of the outputs --------------------------------------------------------------------


def _streamed(trainer: EvalMethods, *, loss_only: bool) -> list[Sink]:
    """Return the metrics that are updated batch by batch: a task's own, and torchmetrics given to the Trainer."""
    engine, sinks = trainer._running_engine(), list[Sink]()
    if loss_only:
        return sinks
    if isinstance(trainer.model, TaskModule):
        sinks.append(MetricSet(trainer.model.configure_metrics(), engine=engine))
    if are_metrics(trainer.compute_metrics):
        sinks.append(MetricSet(trainer.compute_metrics, engine=engine, by_name=False))
    return sinks


def _collected(trainer: EvalMethods, description: str, *, loss_only: bool, num_samples: int | None) -> Collected:
    """Return what keeps predictions, labels and what else a metric function takes, or hands them on batch by batch."""
    args, metrics = trainer.args, trainer.compute_metrics
    function = None if are_metrics(metrics) else metrics
    has_streams = are_metrics(metrics) or isinstance(trainer.model, TaskModule)
    at_end = not args.batch_eval_metrics if function is not None else not has_streams
    is_kept = not loss_only and (description == PREDICTION or at_end)
    names = ["preds", "target"] if is_kept or (function is not None and not loss_only) else []
    if names and function is not None:
        names += [name for word, name in (("inputs", "inputs"), ("loss", "losses")) if word in args.include_for_metrics]
    return Collected(
        trainer._running_engine(),
        names,
        is_kept=is_kept,
        function=None if loss_only else function,
        each_batch=bool(args.batch_eval_metrics),
        takes_objects=bool(args.eval_use_gather_object),
        num_samples=num_samples,
        every=args.eval_accumulation_steps,
        is_joined=args.eval_do_concat_batches,
    )


def _with_labels(trainer: EvalMethods, step: Step) -> Step:
    """Return the step with a look at its first answer: metrics need predictions and labels."""
    is_checked = False

    def run(batch: Any, size: int) -> Output:
        nonlocal is_checked
        output = step(batch, size)
        if not is_checked and not has_answers(output):
            _refuse_unanswered(trainer, output, batch)
        is_checked = True
        return output

    return run


def _refuse_unanswered(trainer: EvalMethods, output: Output, batch: Any) -> None:
    found = f"The batch is {describe_batch(batch)}."
    if isinstance(trainer.model, TaskModule):
        name = type(trainer.model).__name__
        raise TaskError(
            f"compute_metrics needs 'preds' and 'target', and {name}.eval_step returned {sorted(output)}. {found} "
            "Return both, or leave compute_metrics out."
        )
    if output.get("preds") is None:  # an overridden prediction_step keeps them to itself
        return
    raise TaskError(
        f"compute_metrics needs labels, and label_names={trainer.label_names} are not all in the batch. {found} Set "
        "label_names to the entries that are labels, or evaluate on data that has them; predict() needs none."
    )


def _telling_fillers(trainer: EvalMethods, step: Step) -> Step:
    """Return the step with `accelerator.gather_for_metrics` knowing which rows of the batch count."""
    accelerator = trainer.accelerator
    if trainer._running_engine().world_size == 1:
        return step

    def run(batch: Any, size: int) -> Output:
        rows = batch_size(batch)
        accelerator.real_rows = (size, rows) if size < rows else None
        try:
            return step(batch, size)
        finally:
            accelerator.real_rows = None

    return run


def _with_extras(trainer: EvalMethods, step: Step) -> Step:
    """Return the step with preprocessed predictions, and with inputs and losses where metrics ask for them."""
    args, preprocess = trainer.args, trainer.preprocess_logits_for_metrics
    includes = set(args.include_for_metrics) if trainer.compute_metrics is not None else set()

    def run(batch: Any, size: int) -> Output:
        output = dict(step(batch, size))
        if preprocess is not None and output.get("preds") is not None:
            output["preds"] = preprocess(output["preds"], output.get("target"))
        if "inputs" in includes:
            output["inputs"], output["batch"] = _main_input(trainer, batch), batch
        if "loss" in includes and output.get("loss") is not None:
            output["losses"] = torch.as_tensor(output["loss"]).repeat(size)
        return output

    return run if preprocess is not None or includes else step


def _main_input(trainer: EvalMethods, batch: Any) -> Any:
    name = getattr(trainer.model, "main_input_name", "input_ids")
    if not isinstance(batch, Mapping) or name not in batch:
        raise ConfigurationError(
            f"include_for_metrics=['inputs'] takes the batch's {name!r}, and the batch is {describe_batch(batch)}. Set "
            f"{type(trainer.model).__name__}.main_input_name to the entry to include."
        )
    return trainer._prepare_input(batch[name])


# ---- what is run ------------------------------------------------------------------------------------


@contextmanager
def _step(
    trainer: EvalMethods, loader: Any, description: str, *, loss_only: bool, ignore_keys: list[str] | None
) -> Iterator[tuple[Step, list[Sink]]]:
    """Open what is called with each batch: the task's own step, or the Trainer's `prediction_step`."""
    model = trainer.model
    if not isinstance(model, TaskModule) or _is_overridden(trainer, "prediction_step"):
        with _model_step(trainer, loader, loss_only=loss_only, ignore_keys=ignore_keys) as step:
            yield step, []
        return
    if trainer.args.jit_mode_eval:
        logger.warning(
            "jit_mode_eval=True traces a plain model; %s, a TaskModule, runs as it is.", type(model).__name__
        )
    predicts = description == PREDICTION and not loss_only
    own_predict = predicts and type(model).predict_step is not TaskModule.predict_step
    name = "predict_step" if own_predict else "eval_step"
    with TaskStep(model, trainer._running_engine(), name, needs_preds=predicts) as task_step:
        yield task_step, [task_step]


@contextmanager
def _model_step(trainer: EvalMethods, loader: Any, *, loss_only: bool, ignore_keys: list[str] | None) -> Iterator[Step]:
    """Open the Trainer's `prediction_step` on the model in eval mode, where the next training step finds it.

    Outside training the model is held in the format of bf16_full_eval or fp16_full_eval.
    """
    engine = trainer._running_engine()
    engine.unwrapped_step("forward")  # compiles it, if that was asked for
    for module in (trainer.model_wrapped, trainer.model):  # a wrapper has a mode of its own
        module.eval()
    switch = getattr(trainer.optimizer, "eval", None)
    if switch is not None:  # schedule-free optimizers keep other weights for evaluation
        switch()
    trainer._past = None
    full_eval = nullcontext() if trainer.is_in_train else engine.full_eval(trainer.model)
    with full_eval, nullcontext() if trainer.is_in_train else direct_calls_in_precision(trainer):
        own = traced_model(trainer, loader)
        model = trainer._wrap_model(own, training=False, dataloader=loader)
        if model is not own:  # a wrapper that an override made
            model.eval()
        yield _ModelStep(trainer, model, loss_only=loss_only, ignore_keys=ignore_keys)
    trainer._past = None


class _ModelStep:
    """`Trainer.prediction_step`, as the evaluator calls it."""

    def __init__(
        self,
        trainer: EvalMethods,
        model: nn.Module,
        *,
        loss_only: bool,
        ignore_keys: list[str] | None,
    ) -> None:
        self._trainer, self._model, self._loss_only, self._ignore_keys = trainer, model, loss_only, ignore_keys

    def __call__(self, batch: Any, size: int) -> Output:
        """Return the loss, predictions and labels of one batch."""
        step = self._trainer.prediction_step
        loss, preds, target = step(self._model, batch, self._loss_only, ignore_keys=self._ignore_keys)
        mean = loss.mean() if isinstance(loss, Tensor) and loss.dim() else loss
        output = {"loss": mean, "preds": preds, "target": target}
        return {**output, "loss_weight": 1} if self._trainer._averages_batches else output


def _is_overridden(trainer: EvalMethods, name: str) -> bool:
    from hftrain.trainer.eval_methods import EvalMethods

    return getattr(type(trainer), name) is not getattr(EvalMethods, name)


# ---- one prediction step ----------------------------------------------------------------------------


def task_prediction(trainer: EvalMethods, task: TaskModule, inputs: Any) -> tuple[Any, Any, Any]:
    """Return loss, predictions and labels of a task's `eval_step`."""
    engine = trainer._running_engine()
    with torch.no_grad():
        output = engine.unwrapped_step("eval_step")(engine.to_device(inputs))
    return output.get("loss"), output.get("preds"), output.get("target")


def gives_loss(trainer: EvalMethods, inputs: Any) -> bool:
    """Whether the model returns a loss for these inputs: all labels are there, or it needs none.

    Raises:
        TaskError: the batch has no names.
    """
    if not isinstance(inputs, Mapping):
        raise TaskError(
            f"A model is called with the batch's entries by name, and the batch is {describe_batch(inputs)}. Make "
            "data_collator return a dict, or override prediction_step."
        )
    if trainer.label_names:
        return all(inputs.get(name) is not None for name in trainer.label_names)
    asked = inputs.get("return_loss")
    return bool(trainer.can_return_loss if asked is None else asked)


def mean_loss(loss: Any) -> Tensor:
    """Return the mean of what `Trainer.compute_loss` returned, 0-d.

    Raises:
        TaskError: it is no tensor.
    """
    if not isinstance(loss, Tensor):
        raise TaskError(
            f"compute_loss returned {type(loss).__name__} in evaluation, where the batch has its labels. Return the "
            "loss tensor, or set label_names=[] for a model that computes none."
        )
    return loss.detach().mean()


def labels_of(trainer: EvalMethods, inputs: Mapping[str, Any]) -> Any:
    """Return the labels of a batch: the entry of the one label name, or a tuple of several."""
    labels = tuple(map_nest(inputs.get(name), _detached) for name in trainer.label_names)
    return labels[0] if len(labels) == 1 else labels


def logits_of(trainer: EvalMethods, outputs: Any, ignore_keys: list[str] | None, *, has_loss: bool) -> Any:
    """Return a model's outputs without its loss and what is ignored: one, or a tuple of several, in fp32.

    Args:
        outputs: a mapping, a tuple (the loss first, if there is one), or one tensor.
        ignore_keys: entries of a mapping to leave out; None takes those that the model's config names, which are the
            ``past_key_values`` if it names none.
        has_loss: whether the loss is among the outputs.
    """
    if ignore_keys is None:
        config = getattr(trainer.model, "config", None)
        ignore_keys = [] if config is None else getattr(config, "keys_to_ignore_at_inference", ["past_key_values"])
    logits = outputs
    if isinstance(outputs, Mapping):
        left_out = {*ignore_keys, "loss"} if has_loss else set(ignore_keys)
        logits = tuple(value for name, value in outputs.items() if name not in left_out and value is not None)
    elif isinstance(outputs, (tuple, list)) and has_loss:
        logits = outputs[1:]
    logits = trainer._running_engine().float_outputs(map_nest(logits, _detached))
    return logits[0] if isinstance(logits, (tuple, list)) and len(logits) == 1 else logits


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
