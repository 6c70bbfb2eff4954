"""Every method that the table says a run calls is called by one: all are overridden at once in real runs."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest
from datasets import Dataset

from hftrain import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer
from hftrain.trainer.overrides import OVERRIDES, Fate
from tests.trainer.tasks import Model, Points, arguments
from tests.trainer.translation import Collator, samples, t5

CALLED = sorted(name for name, row in OVERRIDES.items() if row.fate is Fate.CALLED)
STATIC = ("get_optimizer_cls_and_kwargs", "load_generation_config")

# A quarter of the arguments is for one method each.
SETTINGS: dict[str, Any] = {
    "max_steps": 4,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "save_total_limit": 1,
    "metric_for_best_model": "loss",
    "load_best_model_at_end": True,
    "neftune_noise_alpha": 1.0,
    "include_num_input_tokens_seen": True,
    "predict_with_generate": True,
    "restore_callback_states_from_checkpoint": True,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
}


def recording(kind: type[Trainer], calls: set[str]) -> type[Trainer]:
    """A subclass that notes each method that is called on it and does what the method did."""

    def override(name: str) -> Any:
        method = inspect.getattr_static(kind, name)

        def noting(*args: Any, **kwargs: Any) -> Any:
            calls.add(name)
            return getattr(method, "__func__", method)(*args, **kwargs)

        noting.__signature__ = inspect.signature(getattr(method, "__func__", method))  # type: ignore[attr-defined]
        return staticmethod(noting) if name in STATIC else noting

    return type("Recording", (kind,), {name: override(name) for name in CALLED if hasattr(kind, name)})


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What was called by runs of a model that generates, and of a plain module."""
    folder, seen = tmp_path_factory.mktemp("runs"), set[str]()
    rows = [{**row, "surplus": 0} for row in samples(16)]
    plain = {"jit_mode_eval": True, "max_steps": 1, "remove_unused_columns": True}
    kind = recording(Seq2SeqTrainer, seen)

    def made(data: Any, **changes: Any) -> Trainer:
        args = Seq2SeqTrainingArguments(str(folder / "t5"), **{**SETTINGS, **changes})
        return kind(args=args, model_init=t5, data_collator=Collator(t5()), train_dataset=data, eval_dataset=rows)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        made(Dataset.from_list(rows), generation_config=t5().generation_config).train()
        resumed = made(rows, max_steps=6, use_legacy_prediction_loop=True)
        resumed.train(resume_from_checkpoint=True)
        resumed.predict(rows[:3], max_length=9)
        resumed.save_model()
        resumed.log_metrics("eval", {"eval_loss": 1.0})
        jit = recording(Trainer, seen)
        jit(Model(), arguments(folder / "jit", **plain), train_dataset=Points(), eval_dataset=Points(8)).evaluate()
    return seen


@pytest.mark.parametrize("name", CALLED)
def test_a_run_calls_the_override(calls: set[str], name: str) -> None:
    assert name in calls
