from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import IterableDataset

from hftrain import Trainer, TrainingArguments, default_data_collator
from hftrain.core.losses import LabelSmoother
from hftrain.data.collators import DataCollatorWithPadding
from hftrain.errors import ConfigurationError
from hftrain.trainer.construction import accepts_loss_kwargs, can_return_loss, is_model_parallel, label_names_of
from tests.trainer.tasks import Fit, Model, Points, arguments, trainer, weights

CLASSES = [{"x": torch.tensor([1.0, -1.0]) * (1 - 2 * (i % 2)), "labels": i % 2} for i in range(8)]


class Classifier(nn.Module):
    """Two classes of points, embedded linearly."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(2, 4), nn.Linear(4, 2)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(self.embed(x))
        return (
            {"logits": logits}
            if labels is None
            else {"loss": functional.cross_entropy(logits, labels), "logits": logits}
        )


class Labelled(nn.Module):
    def forward(
        self, x: Tensor, labels: Tensor, next_label: Tensor, return_loss: bool = True, **kwargs: Any
    ) -> None: ...


class ForQuestionAnswering(nn.Module):
    def forward(self, x: Tensor, start_positions: Tensor, end_positions: Tensor) -> None: ...


class Adapted(nn.Module):
    peft_config = "lora"

    def get_base_model(self) -> nn.Module:
        return Labelled()


class Tokenizer:
    padding_side = "right"

    def pad(self, *args: Any, **kwargs: Any) -> Any: ...


def test_a_model_or_model_init_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Trainer needs a model"):
        Trainer(args=arguments(tmp_path))


def test_both_model_and_model_init_warn_and_model_init_trains(tmp_path: Path) -> None:
    model = Model()
    with pytest.warns(FutureWarning, match="model_init"):
        ours = Trainer(model, arguments(tmp_path), model_init=Model, train_dataset=Points())
    assert ours.model is model
    ours.train()
    assert ours.model is not model


def test_without_arguments_the_folder_is_tmp_trainer() -> None:
    assert Trainer(Model()).args.output_dir == "tmp_trainer"


def test_model_init_may_take_the_trial(tmp_path: Path) -> None:
    seen: list[Any] = []

    def make(trial: Any) -> nn.Module:
        seen.append(trial)
        return Model()

    Trainer(args=arguments(tmp_path), model_init=make)
    assert seen == [None]


def test_the_trial_reaches_a_parameter_with_a_default_too(tmp_path: Path) -> None:
    ours = Trainer(args=arguments(tmp_path), model_init=lambda trial="none": Model() if trial is None else Fit())
    assert isinstance(ours.model, Model)


def test_model_init_with_two_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="trial, size"):
        Trainer(args=arguments(tmp_path), model_init=lambda trial, size: Model())


def test_model_init_that_returns_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="returned None"):
        Trainer(args=arguments(tmp_path), model_init=lambda: None)  # type: ignore[arg-type, return-value]


def test_model_init_starts_from_the_seed(tmp_path: Path) -> None:
    first = Trainer(args=arguments(tmp_path, seed=3), model_init=Model)
    torch.rand(5)
    assert torch.equal(weights(first.model), weights(Trainer(args=arguments(tmp_path, seed=3), model_init=Model).model))


def test_the_default_collator_pads_for_a_tokenizer(tmp_path: Path) -> None:
    ours = Trainer(Model(), arguments(tmp_path), processing_class=Tokenizer())
    assert isinstance(ours.data_collator, DataCollatorWithPadding)


@pytest.mark.parametrize("processing_class", [None, object()])
def test_the_default_collator_stacks_for_anything_else(tmp_path: Path, processing_class: Any) -> None:
    ours = Trainer(Model(), arguments(tmp_path), processing_class=processing_class)
    assert ours.data_collator is default_data_collator


def test_tokenizer_is_the_old_name_of_processing_class(tmp_path: Path) -> None:
    tokenizer = Tokenizer()
    with pytest.warns(FutureWarning, match="processing_class"):
        ours = Trainer(Model(), arguments(tmp_path), tokenizer=tokenizer)
    with pytest.warns(FutureWarning, match="processing_class"):
        assert ours.tokenizer is ours.processing_class is tokenizer


def test_tokenizer_and_processing_class_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="tokenizer"):
        Trainer(Model(), arguments(tmp_path), processing_class=Tokenizer(), tokenizer=Tokenizer())


def test_a_collator_that_cannot_be_called_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="data_collator"):
        Trainer(Model(), arguments(tmp_path), data_collator="pad")  # type: ignore[arg-type]


def test_evaluation_without_data_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="eval_strategy='steps' needs data"):
        Trainer(Model(), arguments(tmp_path, eval_strategy="steps"), train_dataset=Points())


def test_training_data_without_a_length_needs_max_steps(tmp_path: Path) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(())

    with pytest.raises(ConfigurationError, match="max_steps"):
        Trainer(Model(), arguments(tmp_path), train_dataset=Stream())


def test_metrics_batch_by_batch_need_to_be_told_the_last_one(tmp_path: Path) -> None:
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    args.batch_eval_metrics = True
    with pytest.raises(ConfigurationError, match="compute_result"):
        Trainer(Model(), args, compute_metrics=lambda prediction: {})


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    model = Model()
    model.is_quantized = True  # type: ignore[assignment]
    with pytest.raises(ConfigurationError, match="quantized"):
        Trainer(model, arguments(tmp_path))


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Labelled(), ["labels", "next_label"]),
        (ForQuestionAnswering(), ["start_positions", "end_positions"]),
        (Adapted(), ["labels", "next_label"]),
        (Model(), []),
    ],
)
def test_labels_are_found_by_the_names_of_forward(model: nn.Module, names: list[str]) -> None:
    assert label_names_of(model) == names


def test_return_loss_as_default_returns_a_loss_without_labels() -> None:
    assert can_return_loss(Labelled())
    assert not can_return_loss(Model())


def test_a_model_says_itself_whether_it_weights_its_loss() -> None:
    model = Labelled()
    assert accepts_loss_kwargs(model)
    model.accepts_loss_kwargs = False  # type: ignore[assignment]
    assert not accepts_loss_kwargs(model)


@pytest.mark.parametrize(
    ("devices", "is_parallel"),
    [
        ({"a": 0, "b": 1}, True),
        ({"a": "cpu", "b": "disk"}, False),
        ({"": "cuda:0"}, True),
        ({"a": 0, "b": "cpu"}, True),
    ],
)
def test_a_model_on_other_devices_stays_there(devices: dict[str, Any], is_parallel: bool) -> None:
    model = Model()
    model.hf_device_map = devices  # type: ignore[assignment]
    assert is_model_parallel(model, lambda: torch.device("cpu")) is is_parallel


def test_an_optimizer_set_before_training_is_used(tmp_path: Path) -> None:
    ours = trainer(tmp_path)
    ours.optimizer = given = torch.optim.SGD(ours.model.parameters(), lr=0.1)
    ours.train()
    assert ours.optimizer is given


def test_a_second_call_makes_a_new_schedule(tmp_path: Path) -> None:
    ours = trainer(tmp_path, Fit)
    ours.train()
    first = ours.lr_scheduler
    ours.train()
    assert ours.lr_scheduler is not first


class Summed(Classifier):
    """Takes keyword arguments, and does not weight its loss."""

    def forward(self, x: Tensor, labels: Tensor | None = None, **kwargs: Any) -> dict[str, Tensor]:
        return super().forward(x, labels)


def test_what_was_set_on_the_trainer_holds_for_the_next_model_of_model_init(tmp_path: Path) -> None:
    ours = Trainer(args=arguments(tmp_path, max_steps=1), model_init=Summed, train_dataset=CLASSES)
    assert ours.model_accepts_loss_kwargs
    ours.model_accepts_loss_kwargs, ours.label_names = False, ["x"]
    ours.train()
    assert not ours.model_accepts_loss_kwargs
    assert ours.label_names == ["x"]


@pytest.mark.parametrize(
    ("changes", "attribute"),
    [({"label_smoothing_factor": 0.3}, "label_smoother"), ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha")],
)
def test_arguments_of_the_loss_that_change_after_construction_act(
    tmp_path: Path, changes: dict[str, float], attribute: str
) -> None:
    ours = Trainer(Classifier(), arguments(tmp_path, max_steps=1), train_dataset=CLASSES)
    assert getattr(ours, attribute) is None
    for name, value in changes.items():
        setattr(ours.args, name, value)
    ours.train()
    assert getattr(ours, attribute) is not None


def test_a_label_smoother_of_ones_own_stays(tmp_path: Path) -> None:
    ours = Trainer(Classifier(), arguments(tmp_path, max_steps=1), train_dataset=CLASSES)
    ours.label_smoother = own = LabelSmoother(0.5)
    ours.train()
    assert ours.label_smoother is own


@pytest.mark.parametrize(
    ("make", "changes", "asked"),
    [
        (Fit, {"label_smoothing_factor": 0.3}, "label_smoothing_factor=0.3"),
        (Classifier, {"batch_eval_metrics": True}, "batch_eval_metrics=True"),
    ],
)
def test_arguments_that_change_after_construction_are_checked_by_train(
    tmp_path: Path, make: type[nn.Module], changes: dict[str, Any], asked: str
) -> None:
    ours = Trainer(make(), arguments(tmp_path), train_dataset=CLASSES, compute_metrics=lambda prediction: {})
    for name, value in changes.items():
        setattr(ours.args, name, value)
    with pytest.raises(ConfigurationError, match=asked):
        ours.train()


def test_arguments_of_another_library_are_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="args is a builtins.dict. Pass hftrain's"):
        Trainer(Model(), {"output_dir": "out"})  # type: ignore[arg-type]
