"""Evaluating in two gloo processes beside one process: the same predictions, in order, and the same metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics.classification import MulticlassAccuracy

from hftrain import Trainer
from tests.distributed.launch import launch
from tests.trainer.tasks import arguments

pytestmark = pytest.mark.slow


class Tagger(nn.Module):
    """One prediction a token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Embedding(16, 3)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(input_ids)
        return {"loss": functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


def sentences(num_samples: int = 13) -> list[dict[str, Tensor]]:
    lengths = [(5 * number) % 7 + 1 for number in range(num_samples)]
    return [{"input_ids": torch.arange(n) % 16, "labels": torch.arange(n) % 3} for n in lengths]


class Stream(IterableDataset[dict[str, Tensor]]):
    def __iter__(self) -> Any:
        return iter(sentences())


def padded(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    fill = {"input_ids": 0, "labels": -100}
    pad = nn.utils.rnn.pad_sequence
    return {key: pad([row[key] for row in rows], batch_first=True, padding_value=fill[key]) for key in fill}


class Counting:
    def __init__(self) -> None:
        self.hits, self.calls = 0, list[bool]()

    def __call__(self, answers: Any, compute_result: bool) -> dict[str, Any]:
        self.hits += int((answers.predictions.argmax(-1) == answers.label_ids).sum())
        self.calls.append(compute_result)
        return {"hits": self.hits} if compute_result else {}


class Wordy(Trainer):
    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        loss, logits, labels = super().prediction_step(*args, **kwargs)
        return loss, None if logits is None else (logits, ["word"] * len(logits)), labels


def hits(answers: Any) -> dict[str, Any]:
    return {"hits": int((answers.predictions.argmax(-1) == answers.label_ids).sum())}


METRICS: dict[str, Any] = {
    "function": lambda: hits,
    "batch by batch": Counting,
    "torchmetrics": lambda: {
        "hits": MulticlassAccuracy(num_classes=3, average="micro", multidim_average="global", ignore_index=-100)
    },
}


def answers(folder: str, kind: str, batch_size: int, data: str, objects: bool, dealing: Any = None) -> dict[str, Any]:
    given: dict[str, Any] = {"per_device_eval_batch_size": batch_size, "batch_eval_metrics": kind == "batch by batch"}
    given["accelerator_config"] = dealing
    metrics = METRICS[kind]()
    if kind == "torchmetrics":
        metrics["hits"].update = _by_token(metrics["hits"].update)
    ours = (Wordy if objects else Trainer)(
        Tagger(),
        arguments(folder, eval_use_gather_object=objects, **given),
        compute_metrics=None if objects else metrics,
        data_collator=padded,
    )
    sets: dict[str, Any] = {"list": sentences(), "stream": Stream(), "a rank left over": sentences(9)}
    sets["loader"] = DataLoader(sets["list"], batch_size=batch_size, collate_fn=padded)
    evaluated, predicted = ours.evaluate(sets[data]), ours.predict(sets[data])
    logits, words = predicted.predictions if objects else (predicted.predictions, None)
    return {
        "loss": evaluated["eval_loss"],
        "hits": evaluated.get("eval_hits"),
        "predictions": logits.tolist(),
        "labels": np.asarray(predicted.label_ids).tolist(),
        "words": words,
    }


def _by_token(update: Any) -> Any:
    return lambda preds, target: update(preds.flatten(0, 1), target.flatten())


CASES: list[tuple[Any, ...]] = [
    ("function", "list", False),
    ("function", "loader", False),
    ("function", "stream", False),
    ("batch by batch", "list", False),
    ("torchmetrics", "list", False),
    ("function", "a rank left over", False),
    ("torchmetrics", "a rank left over", False),
    ("function", "list", True),
    ("function", "list", False, {"dispatch_batches": True}),
    ("function", "loader", False, {"dispatch_batches": True}),
]


def every_case(folder: str, batch_size: int) -> list[dict[str, Any]]:
    return [answers(folder, kind, batch_size, *case) for kind, *case in CASES]


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    alone = every_case(str(tmp_path / "one"), 4)
    first, second = launch(every_case, str(tmp_path / "two"), 4)
    for one, two, other in zip(alone, first, second, strict=True):
        assert two == other
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)
        assert two["hits"] == (one["hits"] and pytest.approx(one["hits"], rel=1e-6))
        assert np.allclose(two["predictions"], one["predictions"])
        assert (two["labels"], two["words"] is None) == (one["labels"], one["words"] is None)
        assert len(two["words"] or sentences()) == len(sentences())
