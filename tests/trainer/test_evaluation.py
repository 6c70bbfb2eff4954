"""Evaluating and predicting with a plain module."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics import MeanSquaredError, MetricCollection, R2Score

from hftrain import EvalLoopOutput, Trainer, TrainerCallback
from hftrain.errors import ConfigurationError, DataError, TaskError
from tests.trainer.tasks import Fit, Points, arguments


class Lines(torch.utils.data.Dataset[dict[str, Tensor]]):
    """`Points`, whose target is called "labels"."""

    def __init__(self, num_samples: int = 20, seed: int = 1) -> None:
        self.points = Points(num_samples, seed)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.points[index]
        return {"x": row["x"], "labels": row["y"]}


class Regression(nn.Module):
    """A plain module: loss and predictions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 1)

    def forward(self, x: Tensor, labels: Tensor | None = None, mems: Tensor | None = None) -> dict[str, Tensor]:
        preds = self.net(x).squeeze(1)
        return {**({} if labels is None else {"loss": functional.mse_loss(preds, labels)}), "preds": preds}


class Unlabelled(Lines):
    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": super().__getitem__(index)["x"]}


def plain(folder: Path, kind: type[Trainer] = Trainer, model: nn.Module | None = None, **given: Any) -> Trainer:
    """A Trainer over `Regression` with `Lines` to train and evaluate on."""
    names = ("compute_metrics", "preprocess_logits_for_metrics", "callbacks", "eval_dataset", "compute_loss_func")
    parts = {"eval_dataset": Lines(), **{name: given.pop(name) for name in names if name in given}}
    return kind(model or Regression(), arguments(folder, **given), train_dataset=Lines(64, 0), **parts)


def squared(answers: Any) -> dict[str, float]:
    return {"mse": float(np.square(answers.predictions - answers.label_ids).mean())}


# ---- what is computed -------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_samples_for_any_loader(tmp_path: Path) -> None:
    ours = plain(tmp_path, compute_metrics=squared)
    for data in (None, DataLoader(Lines(), batch_size=6), Stream()):
        metrics = ours.evaluate(data)
        assert metrics["eval_loss"] == pytest.approx(metrics["eval_mse"], rel=1e-6)


class Stream(IterableDataset[dict[str, Tensor]]):
    """`Lines` without a length."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        lines = Lines()
        return (lines[number] for number in range(len(lines)))


def test_predictions_of_a_set_without_length_are_all_there(tmp_path: Path) -> None:
    ours = plain(tmp_path)
    assert np.array_equal(ours.predict(Stream()).predictions, ours.predict(Lines()).predictions)


def test_without_labels_predict_gives_predictions_and_no_loss(tmp_path: Path) -> None:
    output = plain(tmp_path, compute_metrics=squared).predict(Unlabelled())
    assert output.predictions.shape == (20,)
    assert output.label_ids is None
    assert {"test_loss", "test_mse"}.isdisjoint(output.metrics or {})


def test_metrics_that_need_labels_say_so_where_there_are_none(tmp_path: Path) -> None:
    ours = plain(tmp_path, compute_metrics=squared)
    with pytest.raises(TaskError, match=r"compute_metrics needs labels, and label_names=\['labels'\].*'x': float32"):
        ours.evaluate(Unlabelled())


def test_a_metric_function_of_a_task_needs_predictions_and_targets(tmp_path: Path) -> None:
    class Silent(Fit):
        def eval_step(self, batch: Any) -> dict[str, Any]:
            return {"loss": super().eval_step(batch)["loss"]}

    ours = Trainer(Silent(), arguments(tmp_path), eval_dataset=Points(8), compute_metrics=squared)
    with pytest.raises(TaskError, match=r"needs 'preds' and 'target', and Silent.eval_step returned \['loss'\]"):
        ours.evaluate()


@pytest.mark.parametrize(
    ("metrics", "name"),
    [
        (MeanSquaredError(), "MeanSquaredError"),
        ({"mse": MeanSquaredError()}, "mse"),
        (MetricCollection({"mse": MeanSquaredError(), "r2": R2Score()}), "mse"),
    ],
)
def test_torchmetrics_are_updated_batch_by_batch_and_nothing_is_kept(tmp_path: Path, metrics: Any, name: str) -> None:
    ours = plain(tmp_path, compute_metrics=metrics)
    for _ in range(2):  # and started afresh
        assert ours.evaluate()[f"eval_{name}"] == pytest.approx(ours.state.log_history[-1]["eval_loss"], rel=1e-5)
    assert ours.evaluation_loop(ours.get_eval_dataloader(), "Evaluation").predictions is None
    output = ours.predict(Lines())
    assert f"test_{name}" in (output.metrics or {})
    assert output.predictions.shape == (20,)


def test_torchmetrics_take_inputs_and_losses_that_they_name(tmp_path: Path) -> None:
    class Weighted(MeanSquaredError):
        def update(self, preds: Tensor, target: Tensor, losses: Tensor, inputs: Tensor) -> None:
            assert losses.shape == inputs.shape[:1] == preds.shape
            super().update(preds, target)

    model = Regression()
    model.main_input_name = "x"  # type: ignore[assignment]
    given = {"include_for_metrics": ["inputs", "loss"]}
    assert "eval_Weighted" in plain(tmp_path, model=model, compute_metrics=Weighted(), **given).evaluate()


def test_a_task_may_have_a_metric_function_too(tmp_path: Path) -> None:
    ours = Trainer(Fit(), arguments(tmp_path), eval_dataset=Points(20), compute_metrics=squared)
    metrics = ours.evaluate()
    assert metrics["eval_mse"] == pytest.approx(metrics["eval_loss"], rel=1e-6)


@pytest.mark.parametrize("result", [[1.0], 0.5, None])
def test_a_metric_function_must_return_a_dict(tmp_path: Path, result: Any) -> None:
    def measure(answers: Any) -> Any:
        return result

    with pytest.raises(TaskError, match=rf"compute_metrics \(measure\) returned {type(result).__name__}"):
        plain(tmp_path, compute_metrics=measure).evaluate()


def test_a_dict_that_holds_no_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"compute_metrics\['mse'\] is a function without update, compute and reset"):
        plain(tmp_path, compute_metrics={"mse": squared}).evaluate()


def test_metrics_must_be_a_function_or_metrics(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="compute_metrics='accuracy' is a str. Pass a function"):
        plain(tmp_path, compute_metrics="accuracy")


def test_a_bare_tensor_is_a_prediction_a_sample(tmp_path: Path) -> None:
    class Bare(Regression):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return self.net(x).squeeze(1)  # type: ignore[no-any-return]

    def loss(outputs: Tensor, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return functional.mse_loss(outputs, labels)

    given = {"label_names": ["labels"], "compute_loss_func": loss, "remove_unused_columns": False}
    metrics = plain(tmp_path, model=Bare(), compute_metrics=squared, **given).evaluate()
    assert metrics["eval_mse"] == pytest.approx(metrics["eval_loss"], rel=1e-6)


def test_a_batch_without_names_is_refused(tmp_path: Path) -> None:
    ours = plain(tmp_path, remove_unused_columns=False)
    with pytest.raises(TaskError, match="called with the batch's entries by name, and the batch is"):
        ours.predict(DataLoader(Points(4).x))


def test_an_output_that_is_no_tensor_is_refused_with_what_to_do(tmp_path: Path) -> None:
    class Wordy(Regression):
        def forward(self, x: Tensor) -> dict[str, Any]:  # type: ignore[override]
            return {"preds": self.net(x), "word": "hello"}

    ours = plain(tmp_path, model=Wordy())
    with pytest.raises(DataError, match="The predictions hold a str .'hello'.*ignore_keys"):
        ours.predict(Unlabelled())
    assert ours.predict(Unlabelled(), ignore_keys=["word"]).predictions.shape == (20, 1)


# ---- arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"include_for_metrics": ["inputs"]}, {"include_inputs_for_metrics": True}])
@pytest.mark.filterwarnings("ignore:include_inputs_for_metrics")
def test_the_metric_function_gets_the_inputs_when_asked(tmp_path: Path, given: dict[str, Any]) -> None:
    found: list[Any] = []
    model = Regression()
    model.main_input_name = "x"  # type: ignore[assignment]
    plain(tmp_path, model=model, compute_metrics=lambda answers: found.append(answers.inputs) or {}, **given).evaluate()
    assert np.array_equal(found[0], Points(20, 1).x.numpy())


def test_inputs_that_the_batch_lacks_are_named(tmp_path: Path) -> None:
    ours = plain(tmp_path, compute_metrics=squared, include_for_metrics=["inputs"])
    with pytest.raises(ConfigurationError, match="takes the batch's 'input_ids'.*Set Regression.main_input_name"):
        ours.evaluate()


def test_a_metric_function_may_be_called_batch_by_batch(tmp_path: Path) -> None:
    calls: list[tuple[int, bool]] = []

    def measure(answers: Any, compute_result: bool) -> dict[str, float]:
        assert isinstance(answers.predictions, Tensor)
        calls.append((len(answers.predictions), compute_result))
        return {"batches": len(calls)} if compute_result else {}

    ours = plain(tmp_path, compute_metrics=measure, batch_eval_metrics=True)
    assert ours.evaluate()["eval_batches"] == 3
    assert calls == [(8, False), (8, False), (4, True)]
    assert ours.evaluation_loop(ours.get_eval_dataloader(), "Evaluation").predictions is None


def test_batches_may_stay_apart(tmp_path: Path) -> None:
    output = plain(tmp_path, eval_do_concat_batches=False).predict(Lines())
    assert [part.shape for part in output.predictions] == [(8,), (8,), (4,)]
    assert [part.shape for part in output.label_ids] == [(8,), (8,), (4,)]


def test_objects_are_gathered_when_asked(tmp_path: Path) -> None:
    class Wordy(Trainer):
        def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
            loss, preds, labels = super().prediction_step(*args, **kwargs)
            return loss, (preds, ["up" if one > 0 else "down" for one in preds]), labels

    numbers, words = plain(tmp_path, Wordy, eval_use_gather_object=True).predict(Lines()).predictions
    assert words == ["up" if one > 0 else "down" for one in numbers]
    with pytest.raises(DataError, match="eval_use_gather_object=True"):
        plain(tmp_path, Wordy).predict(Lines())


class Looking(Trainer):
    """Writes down with what model a prediction step is called."""

    def prediction_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        self.__dict__.setdefault("models", []).append(model)
        return super().prediction_step(model, *args, **kwargs)


@pytest.mark.parametrize("is_traced", [True, False])
def test_the_model_is_traced_when_asked(tmp_path: Path, is_traced: bool) -> None:
    ours = plain(tmp_path, Looking, jit_mode_eval=is_traced)
    metrics = ours.evaluate()
    assert all(isinstance(model, torch.jit.ScriptModule) is is_traced for model in ours.models)  # type: ignore[attr-defined]
    assert ("eval_jit_compilation_time" in metrics) is is_traced
    assert metrics["eval_loss"] == pytest.approx(plain(tmp_path).evaluate()["eval_loss"])


def test_a_model_that_cannot_be_traced_runs_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Untraceable(Regression):
        def forward(self, x: Tensor, labels: Tensor | None = None, mems: Tensor | None = None) -> dict[str, Tensor]:
            if torch.jit.is_tracing():
                raise RuntimeError("not today")
            return super().forward(x, labels)

    ours = plain(tmp_path, model=Untraceable(), jit_mode_eval=True)
    assert "eval_loss" in ours.evaluate()
    assert "Untraceable cannot be traced and runs as it is (RuntimeError: not today)" in caplog.text


def test_a_task_runs_untraced_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Trainer(Fit(), arguments(tmp_path, jit_mode_eval=True), eval_dataset=Points(8)).evaluate()
    assert "Fit, a TaskModule, runs as it is" in caplog.text


def test_the_older_loop_is_called_when_asked(tmp_path: Path) -> None:
    class Older(Trainer):
        def prediction_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
            output = super().prediction_loop(*args, **kwargs)
            return output._replace(metrics={"eval_older": 1.0, **(output.metrics or {})})

    assert "eval_older" in plain(tmp_path, Older, use_legacy_prediction_loop=True).evaluate()
    assert "eval_older" not in plain(tmp_path, Older).evaluate()
    with pytest.raises(DataError, match="needs a dataloader with __len__"):
        plain(tmp_path, Older, use_legacy_prediction_loop=True).evaluate(Stream())


class Typed(Regression):
    """Writes down the format of its weights."""

    def forward(self, x: Tensor, labels: Tensor | None = None, mems: Tensor | None = None) -> dict[str, Tensor]:
        self.__dict__.setdefault("found", []).append((self.training, self.net.weight.dtype))
        return super().forward(x, labels)


@pytest.mark.parametrize(("name", "format_"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_full_evaluation_computes_in_half_precision_and_answers_in_fp32(
    tmp_path: Path, name: str, format_: torch.dtype
) -> None:
    ours = plain(tmp_path, model=Typed(), **{f"{name}_full_eval": True})
    output = ours.predict(Lines())
    assert {found for _, found in ours.model.found} == {format_}  # type: ignore[operator, union-attr]
    assert output.predictions.dtype == np.float32
    assert ours.model.net.weight.dtype is torch.float32  # type: ignore[union-attr]
    assert output.metrics is not None
    assert output.metrics["test_loss"] == pytest.approx(plain(tmp_path).evaluate()["eval_loss"], rel=0.02)


def test_memories_go_from_batch_to_batch_of_an_evaluation_and_end_with_it(tmp_path: Path) -> None:
    class Remembering(Regression):
        def forward(self, x: Tensor, labels: Tensor | None = None, mems: Tensor | None = None) -> Any:
            self.__dict__.setdefault("found", []).append(None if mems is None else float(mems))
            answers = super().forward(x, labels)
            return (*answers.values(), torch.tensor(float(len(self.found))))

    ours = plain(tmp_path, model=Remembering(), past_index=2)
    ours.evaluate()
    ours.predict(Unlabelled())
    assert ours.model.found == [None, 1.0, 2.0, None, 4.0, 5.0]
    assert ours._past is None


def test_ignored_keys_are_no_predictions_in_training_and_outside(tmp_path: Path) -> None:
    class Twofold(Regression):
        def forward(self, x: Tensor, labels: Tensor | None = None, mems: Tensor | None = None) -> dict[str, Tensor]:
            return {**super().forward(x, labels), "other": x}

    shapes: list[Any] = []
    metrics = lambda answers: shapes.append(type(answers.predictions)) or {}  # noqa: E731
    ours = plain(tmp_path, model=Twofold(), compute_metrics=metrics, max_steps=1, eval_on_start=True)
    ours.train(ignore_keys_for_eval=["other"])
    ours.train()
    ours.evaluate(ignore_keys=["other"])
    assert shapes == [np.ndarray, tuple, np.ndarray]


# ---- the Trainer ------------------------------------------------------------------------------------


def test_the_preparation_of_the_model_is_a_row_before_any_training(tmp_path: Path) -> None:
    ours = plain(tmp_path, max_steps=1)
    assert "eval_model_preparation_time" in ours.evaluate()
    trained = plain(tmp_path, max_steps=1, eval_on_start=True)
    trained.train()
    trained.evaluate()
    assert not any("eval_model_preparation_time" in row for row in trained.state.log_history)


def test_the_model_stays_in_eval_mode_until_the_next_step(tmp_path: Path) -> None:
    class Modes(TrainerCallback):
        def __init__(self) -> None:
            self.found: list[tuple[str, bool]] = []

        def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            self.found.append(("evaluated", model.training))

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            self.found.append(("stepped", model.training))

    modes = Modes()
    plain(tmp_path, max_steps=2, eval_strategy="steps", eval_steps=1, callbacks=[modes]).train()
    assert modes.found == 2 * [("stepped", True), ("evaluated", False)]


def test_overrides_of_evaluation_take_effect_in_the_middle_of_a_run(tmp_path: Path) -> None:
    class Own(Trainer):
        calls: list[str]

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            self.calls.append("evaluate")
            return super().evaluate(*args, **kwargs)

        def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
            self.calls.append("get_eval_dataloader")
            return super().get_eval_dataloader(eval_dataset)

        def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
            self.calls.append("evaluation_loop")
            return super().evaluation_loop(*args, **kwargs)

        def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
            self.calls.append("prediction_step")
            loss, preds, labels = super().prediction_step(*args, **kwargs)
            return loss + 100, preds, labels

        def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            self.calls.append("_evaluate")
            return super()._evaluate(*args, **kwargs)

    Own.calls = []
    ours = plain(tmp_path, Own, max_steps=2, eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=20)
    ours.train()
    assert Own.calls == ["_evaluate", "evaluate", "get_eval_dataloader", "evaluation_loop", "prediction_step"]
    assert next(row["eval_loss"] for row in ours.state.log_history if "eval_loss" in row) > 100


def test_an_overridden_prediction_step_is_called_for_a_task_too(tmp_path: Path) -> None:
    class Shifted(Trainer):
        def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
            loss, preds, labels = super().prediction_step(*args, **kwargs)
            return loss, preds + 1, labels

    one, other = (kind(Fit(dropout=0.0), arguments(tmp_path), eval_dataset=Points(8)) for kind in (Trainer, Shifted))
    other.model.load_state_dict(one.model.state_dict())
    assert np.allclose(other.predict(Points(8)).predictions, one.predict(Points(8)).predictions + 1)


def test_a_prediction_step_may_compute_gradients(tmp_path: Path) -> None:
    class Forces(Trainer):
        def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            x = inputs["x"].requires_grad_()
            (force,) = torch.autograd.grad(model(x)["preds"].sum(), x)
            return None, force, inputs["labels"]

    output = plain(tmp_path, Forces).predict(Lines())
    assert output.predictions.shape == (20, 4)
    assert "test_loss" not in (output.metrics or {})


def test_the_best_model_is_judged_by_metrics_of_a_function(tmp_path: Path) -> None:
    given = {"eval_strategy": "epoch", "save_strategy": "epoch", "metric_for_best_model": "mse"}
    ours = plain(tmp_path, compute_metrics=squared, load_best_model_at_end=True, **given)
    ours.train()
    assert ours.state.best_metric == pytest.approx(ours.evaluate()["eval_mse"])


def test_an_evaluation_without_data_is_for_an_overridden_loader(tmp_path: Path) -> None:
    class Own(Trainer):
        def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
            return DataLoader(Lines(6), batch_size=4)

    assert "eval_loss" in plain(tmp_path, Own, eval_dataset=None).evaluate()
    with pytest.raises(ConfigurationError, match="requires an eval_dataset"):
        plain(tmp_path, eval_dataset=None).evaluate()


def test_deleting_the_trainer_frees_the_model_after_an_evaluation(tmp_path: Path) -> None:
    ours = plain(tmp_path, compute_metrics=squared)
    ours.evaluate()
    ours.predict(Lines())
    model = weakref.ref(ours.model)
    gc.collect()
    gc.disable()
    try:
        del ours
        assert model() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("answer", [None, 0.5])
def test_a_loss_that_is_no_tensor_is_refused_in_evaluation_too(tmp_path: Path, answer: Any) -> None:
    class Silent(Regression):
        def forward(self, x: Tensor, labels: Tensor | None = None, mems: Tensor | None = None) -> dict[str, Any]:
            return {**super().forward(x), "loss": answer}

    with pytest.raises(TaskError, match=rf"compute_loss returned {type(answer).__name__} in evaluation.*label_names"):
        plain(tmp_path, model=Silent()).evaluate()
    assert plain(tmp_path, model=Silent(), label_names=[]).evaluate().keys().isdisjoint({"eval_loss"})
