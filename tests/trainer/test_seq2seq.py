"""`Seq2SeqTrainer` beside the reference's, on the same weights and data."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    GenerationConfig,
)

from hftrain import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments
from hftrain.errors import ConfigurationError
from tests.trainer.tasks import Model
from tests.trainer.translation import EOS, PAD, Collator, arguments, bart, samples, t5


def both(folder: Path, *, make: Any = t5, compute_metrics: Any = None, collator: Any = Collator, **given: Any) -> Any:
    """Ours and the reference's trainer, with the same weights."""
    for library, named in (
        (Seq2SeqTrainer, Seq2SeqTrainingArguments),
        (transformers.Seq2SeqTrainer, transformers.Seq2SeqTrainingArguments),
    ):
        model = make()
        args = named(**arguments(folder, **copy.deepcopy(given)))
        data = {"eval_dataset": samples(), "train_dataset": samples(), "compute_metrics": compute_metrics}
        yield library(model, args, data_collator=collator(model), **data)


def without_times(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.endswith(("_runtime", "_second", "_time"))}


def assert_same_outputs(ours: Any, theirs: Any) -> None:
    np.testing.assert_array_equal(ours.predictions, theirs.predictions)
    if theirs.label_ids is None:
        assert ours.label_ids is None
    else:
        np.testing.assert_array_equal(ours.label_ids, theirs.label_ids)
    assert ours.metrics.keys() == theirs.metrics.keys()
    assert without_times(ours.metrics) == pytest.approx(without_times(theirs.metrics), rel=1e-6)


SETTINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"generation_max_length": 7}, {}),
    ({"generation_max_length": 7, "generation_num_beams": 3}, {}),
    ({"generation_max_length": 7, "generation_num_beams": 3}, {"max_length": 12, "num_beams": 2}),
    ({"generation_max_length": 7}, {"max_length": None}),
    ({"generation_max_length": 7}, {"max_new_tokens": 25}),
    ({}, {"max_length": 30, "min_length": 22}),
    ({"generation_config": GenerationConfig(max_length=5, pad_token_id=PAD, decoder_start_token_id=PAD)}, {}),
    (
        {
            "generation_config": GenerationConfig(
                max_new_tokens=9, max_length=4, pad_token_id=PAD, decoder_start_token_id=PAD, eos_token_id=EOS
            )
        },
        {"num_beams": 2},
    ),
]


@pytest.mark.parametrize(("given", "gen_kwargs"), SETTINGS)
def test_predictions_are_the_references(given: Any, gen_kwargs: Any, tmp_path: Path) -> None:
    ours, theirs = (trainer.predict(samples(), **gen_kwargs) for trainer in both(tmp_path, **given))
    assert_same_outputs(ours, theirs)


def test_predictions_of_a_bart_are_the_references(tmp_path: Path) -> None:
    ours, theirs = (one.predict(samples(), num_beams=2, max_length=9) for one in both(tmp_path, make=bart))
    assert_same_outputs(ours, theirs)


def test_predictions_without_labels_are_the_references(tmp_path: Path) -> None:
    data = samples(has_labels=False)
    ours, theirs = (trainer.predict(data, max_length=8) for trainer in both(tmp_path))
    assert_same_outputs(ours, theirs)


def test_batches_of_different_widths_are_filled_up_with_minus_100(tmp_path: Path) -> None:
    config = GenerationConfig(max_length=2, pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD)
    ours, theirs = (one.predict(samples(), max_length=15) for one in both(tmp_path, generation_config=config))
    assert (ours.predictions == -100).any()
    assert_same_outputs(ours, theirs)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_evaluation_is_the_references(smoothing: float, tmp_path: Path) -> None:
    seen = []

    def metrics(prediction: Any) -> dict[str, float]:
        seen.append(prediction)
        return {"length": float((prediction.predictions != PAD).sum())}

    trainers = both(tmp_path, compute_metrics=metrics, label_smoothing_factor=smoothing)
    ours, theirs = (trainer.evaluate(max_length=6) for trainer in trainers)
    assert ours.keys() == theirs.keys()
    assert without_times(ours) == pytest.approx(without_times(theirs), rel=1e-6)
    np.testing.assert_array_equal(seen[0].predictions, seen[1].predictions)
    np.testing.assert_array_equal(seen[0].label_ids, seen[1].label_ids)


@pytest.mark.parametrize("given", [{"predict_with_generate": False}, {"prediction_loss_only": True}])
def test_without_generating_it_is_a_trainer(given: Any, tmp_path: Path) -> None:
    ours, theirs = (trainer.predict(samples()) for trainer in both(tmp_path, **given))
    assert without_times(ours.metrics) == pytest.approx(without_times(theirs.metrics), rel=1e-6)
    assert type(ours.predictions) is type(theirs.predictions)


def test_evaluation_in_training_generates_with_the_arguments(tmp_path: Path) -> None:
    widths: list[int] = []

    def metrics(prediction: Any) -> dict[str, float]:
        widths.append(prediction.predictions.shape[1])
        return {"width": float(prediction.predictions.shape[1])}

    given = {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "max_steps": 4,
        "generation_max_length": 27,
        "save_strategy": "no",
    }
    for trainer in both(tmp_path, compute_metrics=metrics, **given):
        trainer.evaluate(max_length=4)  # leaves nothing behind
        trainer.train()
        assert widths == [20, 27, 27]
        widths.clear()


def test_what_is_passed_reaches_every_named_set(tmp_path: Path) -> None:
    model, seen = t5(), []
    sets = {"a": samples(3), "b": samples(4)}

    class Watching(Seq2SeqTrainer):
        def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(self._gen_kwargs)
            return super().prediction_step(*args, **kwargs)

    args = Seq2SeqTrainingArguments(**arguments(tmp_path, per_device_eval_batch_size=8))
    metrics = Watching(model, args, Collator(model), eval_dataset=sets).evaluate(max_length=4)
    assert seen == [{"max_length": 4}, {"max_length": 4}]
    assert {"eval_a_loss", "eval_b_loss"} <= metrics.keys()


def test_an_override_of_the_loss_acts_in_evaluation(tmp_path: Path) -> None:
    class Constant(Seq2SeqTrainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            loss = super().compute_loss(model, inputs).detach() * 0 + 2.5
            return (loss, None) if return_outputs else loss

    model = t5()
    trainer = Constant(model, Seq2SeqTrainingArguments(**arguments(tmp_path)), Collator(model), eval_dataset=samples())
    assert trainer.evaluate(max_length=4)["eval_loss"] == 2.5


def test_the_arguments_of_generating_reach_generate(tmp_path: Path) -> None:
    model, seen = t5(), []
    generate = model.generate

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append({name: kwargs.get(name) for name in ("max_length", "num_beams")})
        return generate(*args, **kwargs)

    model.generate = watched
    args = Seq2SeqTrainingArguments(**arguments(tmp_path, generation_max_length=5, generation_num_beams=2))
    Seq2SeqTrainer(model, args, Collator(model)).predict(samples(2))
    assert seen == [{"max_length": 5, "num_beams": 2}]


def test_generating_calls_the_module_itself_in_the_autocast_of_the_run(tmp_path: Path) -> None:
    model, seen = t5(), []
    generate = model.generate

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return generate(*args, **kwargs)

    model.generate = watched
    args = Seq2SeqTrainingArguments(**arguments(tmp_path, bf16=True))
    Seq2SeqTrainer(model, args, Collator(model)).predict(samples(2), max_length=4)
    assert seen == [(True, torch.bfloat16)]


def test_every_new_model_gets_the_configuration(tmp_path: Path) -> None:
    config = GenerationConfig(max_length=6, pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD)
    args = Seq2SeqTrainingArguments(**arguments(tmp_path, max_steps=1, generation_config=config, save_strategy="no"))
    first = Seq2SeqTrainer(args=args, model_init=t5, data_collator=Collator(t5()), train_dataset=samples())
    assert first.model.generation_config.max_length == 6
    made = first.model
    first.train()
    assert first.model is not made
    assert first.model.generation_config.max_length == 6


def test_a_length_that_the_configuration_rules_out_is_refused(tmp_path: Path) -> None:
    model = t5()
    model.generation_config.max_new_tokens = 3
    trainer = Seq2SeqTrainer(model, Seq2SeqTrainingArguments(**arguments(tmp_path)), Collator(model))
    with pytest.raises(ConfigurationError, match="max_length=9 .*max_new_tokens=3 in the generation configuration"):
        trainer.predict(samples(2), max_length=9)


def test_it_needs_its_own_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Pass args=Seq2SeqTrainingArguments"):
        Seq2SeqTrainer(t5(), TrainingArguments(str(tmp_path)))
    assert isinstance(Seq2SeqTrainer(t5()).args, Seq2SeqTrainingArguments)


def test_a_model_that_cannot_generate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Model has no such method"):
        Seq2SeqTrainer(Model(), Seq2SeqTrainingArguments(**arguments(tmp_path)))


def test_a_model_without_a_configuration_generates_as_it_does(tmp_path: Path) -> None:
    class Copying(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, input_ids: Any, labels: Any = None) -> Any:
            return {"loss": self.weight * input_ids.float().mean()}

        def generate(self, input_ids: Any, labels: Any = None) -> Any:
            return input_ids + 1

    data = [{"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([0])}] * 2
    output = Seq2SeqTrainer(Copying(), Seq2SeqTrainingArguments(**arguments(tmp_path))).predict(data)
    assert output.predictions.tolist() == [[2, 3], [2, 3]]


def test_a_tokenizers_end_token_fills_up_when_it_has_no_pad_token(tmp_path: Path) -> None:
    model = t5()
    args = Seq2SeqTrainingArguments(**arguments(tmp_path))
    tokenizer = SimpleNamespace(pad_token_id=None, eos_token_id=EOS)
    trainer = Seq2SeqTrainer(model, args, Collator(model), processing_class=tokenizer)
    assert trainer._pad_tensors_to_max_len(torch.tensor([[5]]), 3).tolist() == [[5, EOS, EOS]]


def test_deleting_the_trainer_frees_the_model(tmp_path: Path) -> None:
    model = t5()
    args = Seq2SeqTrainingArguments(**arguments(tmp_path, max_steps=1, save_strategy="no"))
    trainer = Seq2SeqTrainer(model, args, Collator(model, is_shifting=False), train_dataset=samples())
    trainer.train()
    trainer.predict(samples(2), max_length=3)
    alive = weakref.ref(model)
    gc.disable()
    try:
        del model, trainer
        assert alive() is None
    finally:
        gc.enable()


def test_a_plain_trainer_says_that_it_does_not_generate(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="is what Seq2SeqTrainer does"):
        Trainer(t5(), Seq2SeqTrainingArguments(**arguments(tmp_path)))
