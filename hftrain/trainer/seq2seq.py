"""`Seq2SeqTrainer`: evaluation and prediction by generating."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hftrain.args.seq2seq import Seq2SeqTrainingArguments
from hftrain.errors import ConfigurationError
from hftrain.trainer.generation import (
    check_generation,
    generation_arguments,
    generation_inputs,
    load_generation_config,
    pad_token_of,
    padded_width,
)
from hftrain.trainer.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from hftrain.types.outputs import PredictionOutput


class Seq2SeqTrainer(Trainer):
    """A `Trainer` that evaluates and predicts by ``model.generate`` when ``args.predict_with_generate`` is set.

    How it generates is looked up in this order: what is passed to `evaluate` or `predict`; ``generation_max_length``
    and ``generation_num_beams`` of the arguments; ``args.generation_config``, or else the model's own configuration.

    Args:
        further: the keyword-only parameters of `Trainer`, and ``optimizer_cls_and_kwargs``; the others are those of
            `Trainer` too.

    Raises:
        ConfigurationError: the arguments are not ``Seq2SeqTrainingArguments``, the model cannot generate, or the
            generation configuration cannot be used.
    """

    args: Seq2SeqTrainingArguments
    _averages_batches = True  # as the reference does here and in no other Trainer
    _gen_kwargs: dict[str, Any]
    _passed_gen_kwargs: dict[str, Any]

    def __init__(
        self,
        model: nn.Module | None = None,
        args: Seq2SeqTrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_loss_func: Callable[..., Tensor] | None = None,
        compute_metrics: Any = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, Any] = (None, None),
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
        **further: Any,
    ) -> None:
        args = args if args is not None else Seq2SeqTrainingArguments("tmp_trainer")
        if not hasattr(args, "predict_with_generate"):
            raise ConfigurationError(
                f"Seq2SeqTrainer reads arguments that {type(args).__name__} does not have. Pass "
                "args=Seq2SeqTrainingArguments(...)."
            )
        self._gen_kwargs = generation_arguments({}, args)
        super().__init__(
            model,
            args,
            data_collator,
            train_dataset,
            eval_dataset,
            processing_class,
            model_init,
            compute_loss_func,
            compute_metrics,
            callbacks,
            optimizers,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            **further,
        )

    def _take_model(self, model: nn.Module) -> None:
        super()._take_model(model)
        if self.args.predict_with_generate and not hasattr(self.model, "generate"):
            raise ConfigurationError(
                f"predict_with_generate=True calls model.generate, and {type(self.model).__name__} has no such method. "
                "Set predict_with_generate=False; a TaskModule generates in its predict_step."
            )
        if self.args.generation_config is not None:
            self.model.generation_config = self.load_generation_config(self.args.generation_config)

    @staticmethod
    def load_generation_config(gen_config_arg: Any) -> Any:
        """Return the generation configuration that ``args.generation_config`` stands for, checked.

        Args:
            gen_config_arg: a ``GenerationConfig`` (a copy is returned), or a JSON file, a folder or a model's name that
                holds one.

        Raises:
            ConfigurationError: its settings contradict each other.
        """
        return load_generation_config(gen_config_arg)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        **gen_kwargs: Any,
    ) -> dict[str, float]:
        """Evaluate, log the row and return it.

        Args:
            eval_dataset: a data set, the name of one of the evaluation sets, or a dict of named ones; None takes
                the Trainer's own.
            ignore_keys: outputs of a model that are not predictions.
            metric_key_prefix: put before every name; a named set adds its own (``eval_<set>_loss``).
            gen_kwargs: keyword arguments of ``generate``, such as ``max_length`` and ``num_beams``.

        Raises:
            ConfigurationError: ``gen_kwargs`` ask for what the generation configuration rules out.

        All ranks must call this.
        """
        self._set_generation(gen_kwargs)
        return super().evaluate(eval_dataset, ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix)

    def _evaluate_each(self, sets: dict[str, Any], ignore_keys: list[str] | None, prefix: str) -> dict[str, float]:
        passed, metrics = self._passed_gen_kwargs, dict[str, float]()
        for name, data in sets.items():
            metrics.update(self.evaluate(data, ignore_keys, f"{prefix}_{name}", **passed))
        return metrics

    def predict(
        self,
        test_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
        **gen_kwargs: Any,
    ) -> PredictionOutput:
        """Predict over ``test_dataset``.

        Returns:
            The generated tokens, (samples, width): batches of different widths are filled up with -100 on the right;
            the labels, if there are any; and the metrics.

        Raises:
            ConfigurationError: ``gen_kwargs`` ask for what the generation configuration rules out.

        All ranks must call this.
        """
        self._set_generation(gen_kwargs)
        return super().predict(test_dataset, ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix)

    def _set_generation(self, gen_kwargs: Mapping[str, Any]) -> None:
        self._passed_gen_kwargs = dict(gen_kwargs)
        self._gen_kwargs = generation_arguments(gen_kwargs, self.args)
        if self.args.predict_with_generate:
            config = self._gen_kwargs.get("generation_config") or getattr(self.model, "generation_config", None)
            check_generation(self._gen_kwargs, config)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Tensor | None, Any, Any]:
        """Generate for one batch, and compute its loss if it has labels.

        Returns:
            The loss; the generated tokens, (batch, width), filled up with the pad token to the width that the
            generation configuration names; and the labels, filled up likewise. Without ``predict_with_generate`` what
            `Trainer.prediction_step` returns.
        """
        if not self.args.predict_with_generate or prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys=ignore_keys)
        inputs = self._prepare_inputs(inputs)
        tokens, labels = self._generate(inputs, gen_kwargs or self._gen_kwargs), inputs.get("labels")
        loss = None if labels is None else self._run_model(model, dict(inputs), has_loss=True)[0]
        if self.args.prediction_loss_only:
            return loss, None, None
        return loss, self._filled_up(tokens), None if labels is None else self._filled_up(labels)

    def _generate(self, inputs: dict[str, Any], gen_kwargs: Mapping[str, Any]) -> Tensor:
        # The module itself, not the wrapped one: generate calls forward many times, and wrappers have no generate.
        with torch.no_grad(), self.compute_loss_context_manager():
            tokens = self.model.generate(**generation_inputs(inputs), **gen_kwargs)  # type: ignore[operator]
        config = getattr(self.model, "generation_config", None)
        if getattr(config, "_from_model_config", False):
            config._from_model_config = False  # type: ignore[union-attr]  # or generate derives it anew for every batch
        return tokens  # type: ignore[no-any-return]

    def _filled_up(self, tokens: Tensor) -> Tensor:
        width = padded_width(tokens.shape[-1], getattr(self.model, "generation_config", None))
        return tokens if width is None else self._pad_tensors_to_max_len(tokens, width)

    def _pad_tensors_to_max_len(self, tensor: Tensor, max_length: int) -> Tensor:
        """Return (batch, max_length): ``tensor`` (batch, width), filled up on the right with the pad token."""
        fill = pad_token_of(self.processing_class, self.model)
        return torch.nn.functional.pad(tensor, (0, max_length - tensor.shape[-1]), value=fill)
