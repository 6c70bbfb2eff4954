"""Generating in two gloo processes beside one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hftrain import Seq2SeqTrainer, Seq2SeqTrainingArguments
from tests.distributed.launch import launch
from tests.trainer.translation import EOS, PAD, Collator, arguments, samples, t5

pytestmark = pytest.mark.slow


def predict(folder: str, batch_size: int) -> dict[str, Any]:
    from transformers import GenerationConfig

    config = GenerationConfig(max_length=2, pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD)
    given = arguments(Path(folder), per_device_eval_batch_size=batch_size, generation_config=config)
    model, seen = t5(), []

    def metrics(prediction: Any) -> dict[str, float]:
        seen.append(prediction.predictions.tolist())
        return {"rows": float(len(prediction.predictions))}

    trainer = Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(**given),
        Collator(model),
        train_dataset=samples(),
        eval_dataset=samples()[3:],
        compute_metrics=metrics,
    )
    output = trainer.predict(samples()[3:], max_length=15)
    evaluated = trainer.evaluate(max_length=15)
    assert output.label_ids is not None
    return {
        "predictions": output.predictions.tolist(),
        "labels": output.label_ids.tolist(),
        "seen": seen[1],
        "rows": evaluated["eval_rows"],
        "loss": evaluated["eval_loss"],
    }


def test_ragged_generations_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    two = launch(predict, str(tmp_path), 1)
    one = predict(str(tmp_path), 1)
    for of_rank in two:
        assert {**of_rank, "loss": 0} == {**one, "loss": 0}
        assert of_rank["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert len({row.count(-100) for row in one["predictions"]}) > 1


def train(folder: str) -> list[float]:
    given = arguments(Path(folder), eval_strategy="epoch", num_train_epochs=1, save_strategy="no")
    model = t5()
    trainer = Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(**given, generation_max_length=6, per_device_train_batch_size=2),
        Collator(model),
        train_dataset=samples(),
        eval_dataset=samples()[3:],
        compute_metrics=lambda prediction: {"rows": len(prediction.predictions)},
    )
    trainer.train()
    rows = [row for row in trainer.state.log_history if "eval_rows" in row]
    return [rows[0]["eval_rows"], float(torch.isfinite(torch.tensor(rows[0]["eval_loss"])))]


def test_training_in_two_processes_generates_on_the_module_itself(tmp_path: Path) -> None:
    assert launch(train, str(tmp_path)) == [[7.0, 1.0]] * 2
