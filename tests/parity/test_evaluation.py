"""evaluate, predict and their loops beside the reference's: the same keys, shapes, types and values."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn import functional

import hftrain

TIMES = ("runtime", "per_second", "preparation_time", "compilation_time")


@pytest.fixture(autouse=True)
def forgotten_state() -> Iterator[None]:
    """The reference keeps the precision of a process's first Trainer for all others."""
    yield
    AcceleratorState._reset_state()
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)


class Twofold(nn.Module):
    """A classifier with two outputs beside the loss."""

    main_input_name = "x"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(x)
        loss = {} if labels is None else {"loss": functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits, "energy": logits.logsumexp(-1)}


class Tupled(Twofold):
    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        return tuple(super().forward(x, labels).values())


class Tagger(nn.Module):
    """One prediction a token; batches are as wide as their longest sequence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Embedding(16, 3)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(input_ids)
        return {"loss": functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


class Spans(nn.Module):
    """Two labels, as question answering has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 2)

    def forward(self, x: Tensor, starts: Tensor, ends: Tensor) -> Any:
        first, last = self.net(x).unbind(-1)
        return (functional.mse_loss(first, starts) + functional.mse_loss(last, ends), first, last)


def points(num_samples: int = 21, *, with_labels: bool = True) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num_samples, 4, generator=generator)
    return [{"x": row, **({"labels": number % 3} if with_labels else {})} for number, row in enumerate(x)]


def sentences(num_samples: int = 13) -> list[dict[str, Tensor]]:
    lengths = [(5 * number) % 7 + 1 for number in range(num_samples)]
    return [{"input_ids": torch.arange(n) % 16, "labels": torch.arange(n) % 3} for n in lengths]


def sequence_classifier() -> nn.Module:
    """A model of transformers that answers with logits and a tuple of hidden states."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=8, num_labels=3, output_hidden_states=True)
    return transformers.BertForSequenceClassification(config)  # type: ignore[no-any-return]


def labelled() -> list[dict[str, Any]]:
    return [{"input_ids": row["input_ids"], "labels": number % 3} for number, row in enumerate(sentences())]


def padded_rows(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    ids = nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    return {"input_ids": ids, "labels": torch.tensor([row["labels"] for row in rows])}


def spans() -> list[dict[str, Tensor]]:
    return [{"x": row["x"], "starts": row["x"][0], "ends": row["x"][1]} for row in points()]


def padded(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """As wide as the batch's longest; 0 and -100 behind it."""
    fill = {"input_ids": 0, "labels": -100}
    pad = nn.utils.rnn.pad_sequence
    return {key: pad([row[key] for row in rows], batch_first=True, padding_value=fill[key]) for key in fill}


def accuracy(answers: Any) -> dict[str, Any]:
    logits = answers.predictions[0] if isinstance(answers.predictions, tuple) else answers.predictions
    labels = answers.label_ids
    hit = (logits.argmax(-1) == labels)[labels != -100].mean()
    return {"accuracy": hit, "eval_count": np.int64(labels.size), "list": [np.float32(0.5)], "loss_": 1}


class Recorded:
    """A metric function that remembers what it was given."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def __call__(self, answers: Any) -> dict[str, Any]:
        self.found.append((answers.predictions, answers.label_ids, answers.inputs, answers.losses))
        return {}


class Counting:
    """A metric function called after each batch."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self.hits = 0

    def __call__(self, answers: Any, compute_result: bool) -> dict[str, Any]:
        self.found.append((answers.predictions, answers.label_ids, answers.inputs, answers.losses, compute_result))
        self.hits += int((answers.predictions[0].argmax(-1) == answers.label_ids).sum())
        return {"hits": self.hits} if compute_result else {}


def both(
    folder: Path, model: Callable[[], nn.Module], metrics: Callable[[], Any] = lambda: None, **given: Any
) -> tuple[Any, Any]:
    """The same Trainer in both libraries."""
    made = []
    parts = {name: given.pop(name) for name in ("data_collator", "preprocess_logits_for_metrics") if name in given}
    for library in (hftrain, transformers):
        settings = {"report_to": [], "disable_tqdm": True, "use_cpu": True, **given}
        args = library.TrainingArguments(str(folder / library.__name__), **settings)
        made.append(library.Trainer(model(), args, compute_metrics=metrics(), **parts))
    return made[0], made[1]


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal nests: types, keys in order, shapes, values within 1e-6."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            if not any(word in key for word in TIMES):
                assert_same(ours[key], theirs[key])
    elif isinstance(theirs, (list, tuple)):
        assert isinstance(ours, type(theirs))
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(theirs, (np.ndarray, Tensor)):
        assert (type(ours), ours.dtype, ours.shape) == (type(theirs), theirs.dtype, theirs.shape)
        assert np.allclose(ours, theirs, atol=1e-6)
    else:
        assert type(ours) is type(theirs)
        assert ours == (pytest.approx(theirs, rel=1e-6) if isinstance(theirs, float) else theirs)


def compare(ours: Any, theirs: Any, data: Any, **options: Any) -> None:
    assert_same(ours.evaluate(data, **options), theirs.evaluate(data, **options))
    assert_same(tuple(ours.predict(data, **options)), tuple(theirs.predict(data, **options)))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], dict[str, Any]]] = {
    "no metrics": (Twofold, points, {}),
    "metrics": (Twofold, points, {"metrics": lambda: accuracy}),
    "a full last batch": (Twofold, lambda: points(16), {"metrics": lambda: accuracy}),
    "one sample": (Twofold, lambda: points(1), {"metrics": lambda: accuracy}),
    "a batch of one at the end": (Twofold, lambda: points(9), {"metrics": lambda: accuracy}),
    "a tuple": (Tupled, points, {"metrics": lambda: accuracy}),
    "ragged": (Tagger, sentences, {"metrics": lambda: accuracy, "data_collator": padded}),
    "a nest of outputs, ragged": (sequence_classifier, labelled, {"data_collator": padded_rows}),
    "two labels": (Spans, spans, {"label_names": ["starts", "ends"]}),
    "no labels asked for": (Twofold, lambda: points(with_labels=False), {"label_names": []}),
    "moved now and then": (Twofold, points, {"metrics": lambda: accuracy, "eval_accumulation_steps": 2}),
    "loss only": (Twofold, points, {"metrics": lambda: accuracy, "prediction_loss_only": True}),
    "the older loop": (Twofold, points, {"metrics": lambda: accuracy, "use_legacy_prediction_loop": True}),
    "the older loop, ragged": (
        Tagger,
        sentences,
        {"metrics": lambda: accuracy, "use_legacy_prediction_loop": True, "data_collator": padded},
    ),
    "traced": (Twofold, points, {"metrics": lambda: accuracy, "jit_mode_eval": True}),
    "bf16": (Twofold, points, {"metrics": lambda: accuracy, "bf16": True}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the reference's own
def test_evaluate_and_predict_give_what_the_reference_gives(tmp_path: Path, case: str) -> None:
    model, data, given = CASES[case]
    ours, theirs = both(tmp_path, model, per_device_eval_batch_size=8, **given)
    compare(ours, theirs, data())


def test_named_sets_and_prefixes_are_the_references(tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, Twofold, lambda: accuracy)
    compare_evaluations = {"near": points(5), "far": points(11)}
    assert_same(ours.evaluate(compare_evaluations), theirs.evaluate(compare_evaluations))
    compare(ours, theirs, points(5), metric_key_prefix="check")


def test_ignored_keys_are_the_references(tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, Twofold)
    compare(ours, theirs, points(), ignore_keys=["energy"])


def language_model(*, use_cache: bool = True) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=16, n_positions=8, n_embd=8, n_layer=2, n_head=2, use_cache=use_cache, loss_type="ForCausalLMLoss"
    )
    return transformers.GPT2LMHeadModel(config)  # type: ignore[no-any-return]


@pytest.mark.parametrize("ignore_keys", [None, []])
def test_a_language_models_cache_is_dropped_unless_nothing_is_ignored(tmp_path: Path, ignore_keys: Any) -> None:
    data = [{"input_ids": torch.arange(6) + n, "labels": torch.arange(6) + n} for n in range(9)]
    ours, theirs = both(tmp_path, language_model, per_device_eval_batch_size=4)
    found = ours.predict(data, ignore_keys=ignore_keys)
    assert isinstance(found.predictions, tuple) is (ignore_keys == [])
    assert_same(tuple(found), tuple(theirs.predict(data, ignore_keys=ignore_keys)))


@pytest.mark.parametrize("joined", [True, False])
def test_the_metric_function_gets_what_the_reference_gives_it(tmp_path: Path, joined: bool) -> None:
    given = {"include_for_metrics": ["inputs", "loss"], "eval_do_concat_batches": joined}
    ours, theirs = both(tmp_path, Twofold, Recorded, **given)
    compare(ours, theirs, points())
    assert_same(ours.compute_metrics.found, theirs.compute_metrics.found)


def test_metrics_batch_by_batch_get_what_the_reference_gives_them(tmp_path: Path) -> None:
    given = {"include_for_metrics": ["inputs", "loss"], "batch_eval_metrics": True}
    ours, theirs = both(tmp_path, Twofold, Counting, **given)
    compare(ours, theirs, points())
    assert_same(ours.compute_metrics.found, theirs.compute_metrics.found)
    assert [call[-1] for call in ours.compute_metrics.found] == 2 * [False, False, True]


def test_predictions_are_preprocessed_as_by_the_reference(tmp_path: Path) -> None:
    def best(logits: Any, labels: Any) -> Any:
        assert labels.shape == logits[0].shape[:1]
        return logits[0].argmax(-1)

    ours, theirs = both(tmp_path, Twofold, preprocess_logits_for_metrics=best)
    compare(ours, theirs, points())


def test_the_prediction_step_gives_what_the_reference_gives(tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, Twofold)
    batch = {"x": torch.ones(2, 4), "labels": torch.tensor([0, 2])}
    for inputs in (batch, {"x": batch["x"]}):
        for loss_only in (True, False):
            found = ours.prediction_step(ours.model, dict(inputs), loss_only)
            assert_same(found, theirs.prediction_step(theirs.model, dict(inputs), loss_only))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the reference's own
def test_the_loop_gives_what_the_reference_gives(tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, Twofold, lambda: accuracy)
    for name in ("evaluation_loop", "prediction_loop"):
        loops = [(trainer, getattr(trainer, name)) for trainer in (ours, theirs)]
        outputs = [loop(trainer.get_eval_dataloader(points()), "Evaluation") for trainer, loop in loops]
        assert_same(tuple(outputs[0]), tuple(outputs[1]))


def test_label_smoothing_acts_in_evaluation_as_in_the_reference(tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, Twofold, lambda: accuracy, label_smoothing_factor=0.2)
    compare(ours, theirs, points())
