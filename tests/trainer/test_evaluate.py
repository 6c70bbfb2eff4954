from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanSquaredError, MetricCollection, R2Score

from hftrain import DataModule, TrainerCallback
from hftrain.errors import ConfigurationError, TaskError
from tests.trainer.tasks import Fit, Points, trainer, weights


class Measured(Fit):
    def configure_metrics(self) -> Any:
        return {"mse": MeanSquaredError()}


def test_the_loss_is_the_mean_over_samples_not_batches(tmp_path: Path) -> None:
    ours = trainer(tmp_path, Measured(), DataModule(eval=Points(20)))
    metrics = ours.evaluate()
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_mse"], rel=1e-5)


def test_evaluation_computes_in_eval_mode_and_restores_training(tmp_path: Path) -> None:
    ours = trainer(tmp_path, Fit(dropout=0.5))
    ours.model.train()
    assert ours.evaluate()["eval_loss"] == ours.evaluate()["eval_loss"]
    assert ours.model.training


def test_named_sets_put_their_name_into_the_metrics(tmp_path: Path) -> None:
    sets = {"near": Points(8), "far": Points(8, seed=3)}
    ours = trainer(tmp_path, Measured(), DataModule(train=Points(), eval=sets))
    assert {"eval_near_loss", "eval_near_mse", "eval_far_loss"} <= set(ours.evaluate())
    assert "eval_far_loss" in ours.evaluate("far", metric_key_prefix="eval_far")


def test_an_unknown_set_lists_the_known_ones(tmp_path: Path) -> None:
    ours = trainer(tmp_path, data=DataModule(eval={"near": Points(8)}))
    with pytest.raises(ConfigurationError, match="'middle' is not one of the evaluation sets: near"):
        ours.evaluate("middle")


def test_a_collection_of_metrics_is_named_by_its_keys(tmp_path: Path) -> None:
    class Collected(Fit):
        def configure_metrics(self) -> Any:
            return MetricCollection({"mse": MeanSquaredError(), "r2": R2Score()})

    metrics = trainer(tmp_path, Collected()).evaluate()
    assert {"eval_mse", "eval_r2"} <= set(metrics)


def test_a_metric_whose_inputs_are_missing_says_which(tmp_path: Path) -> None:
    class Missing(Measured):
        def eval_step(self, batch: Any) -> dict[str, Any]:
            return {"loss": torch.tensor(0.0), "preds": batch["y"]}

    with pytest.raises(TaskError, match="'mse' .MeanSquaredError. takes preds, target.*Return 'target' too"):
        trainer(tmp_path, Missing()).evaluate()


def test_metrics_that_are_none_are_refused(tmp_path: Path) -> None:
    class Wrong(Fit):
        def configure_metrics(self) -> Any:
            return {"loss": functional.mse_loss}

    with pytest.raises(TaskError, match="without update, compute and reset"):
        trainer(tmp_path, Wrong()).evaluate()


def test_predict_gives_predictions_and_labels_in_order(tmp_path: Path) -> None:
    data = Points(21)
    task = Measured()
    ours = trainer(tmp_path, task, per_device_eval_batch_size=4)
    output = ours.predict(data)
    expected = task.net.eval()(data.x).squeeze(1)
    assert np.allclose(output.predictions, expected.detach().numpy(), atol=1e-6)
    assert np.array_equal(output.label_ids, data.y.numpy())
    assert output.metrics is not None
    assert {"test_loss", "test_mse", "test_runtime"} <= set(output.metrics)


def test_an_own_predict_step_needs_no_labels(tmp_path: Path) -> None:
    class Own(Fit):
        def predict_step(self, batch: Tensor) -> dict[str, Tensor]:
            return {"twice": 2 * batch, "rows": batch.sum(1)}

    output = trainer(tmp_path, Own(), DataModule(predict=list(torch.ones(11, 3)))).predict()
    assert output.predictions["twice"].shape == (11, 3)
    assert output.label_ids is None


def test_predictions_move_to_the_host_in_steps(tmp_path: Path) -> None:
    ours = trainer(tmp_path, eval_accumulation_steps=2, per_device_eval_batch_size=3)
    assert ours.predict(Points(20)).predictions.shape == (20,)


def test_a_loss_only_evaluation_skips_the_metrics(tmp_path: Path) -> None:
    assert "eval_mse" not in trainer(tmp_path, Measured(), prediction_loss_only=True).evaluate()


def test_listeners_hear_of_evaluation(tmp_path: Path) -> None:
    heard: list[str] = []

    class Listener(TrainerCallback):
        def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            heard.append("step")

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            heard.append(f"evaluate {'eval_loss' in metrics}")

        def on_predict(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            heard.append(f"predict {'test_loss' in metrics}")

    ours = trainer(tmp_path, callbacks=[Listener()])
    ours.evaluate()
    ours.predict(Points(8))
    assert heard == ["step"] * 3 + ["evaluate True", "step", "predict True"]


def test_a_full_eval_in_bfloat16_restores_the_weights(tmp_path: Path) -> None:
    ours = trainer(tmp_path, bf16_full_eval=True)
    before = weights(ours.model)
    ours.evaluate()
    assert torch.equal(weights(ours.model), before)


def test_prepare_data_runs_once_and_setup_once_a_stage(tmp_path: Path) -> None:
    calls: list[str] = []

    class Data(DataModule):
        def prepare_data(self) -> None:
            calls.append("prepare")

        def setup(self, stage: str) -> None:
            calls.append(stage)

    ours = trainer(tmp_path, data=Data(train=Points(), eval=Points(8), test=Points(8)), eval_strategy="epoch")
    ours.train()
    ours.evaluate()
    ours.predict()
    assert calls == ["prepare", "fit", "evaluate", "test"]
