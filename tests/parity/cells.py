"""The grid: everything that is trained with both libraries and compared number by number."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.data import default_collate

from tests.parity.harness import Cell
from tests.parity.models import (
    Perceptron,
    Recurrent,
    Rows,
    Stream,
    TupleModel,
    causal_lm,
    classified,
    classifier,
    gpt2,
    pad,
    points,
    ragged,
    sentences,
    weighted_loss,
)

BF16_TOLERANCE = 1e-6
"""For bf16 autocast; both cast the same operands, so the bound is not looser in practice."""

PARTIAL = 52
"""Samples for a last batch that is not full, in a last window that is not full: 7 batches, the last of 4."""

SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {},
    "cosine": {},
    "cosine_with_restarts": {"lr_scheduler_kwargs": {"num_cycles": 3}},
    "polynomial": {"lr_scheduler_kwargs": {"power": 2.0, "lr_end": 1e-4}},
    "constant": {},
    "constant_with_warmup": {},
    "inverse_sqrt": {},
    "reduce_lr_on_plateau": {"eval_strategy": "epoch", "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5}},
    "cosine_with_min_lr": {"lr_scheduler_kwargs": {"min_lr": 1e-3}},
    "warmup_stable_decay": {"lr_scheduler_kwargs": {"num_decay_steps": 40}},
}


def _schedule(name: str) -> Cell:
    args = {"lr_scheduler_type": name, "warmup_steps": 10, **SCHEDULES[name]}
    evaluates = "eval_strategy" in args
    return Cell(args=args, eval_data=(lambda: points(20, seed=1)) if evaluates else None)


def _two_groups(model: torch.nn.Module) -> tuple[Any, Any]:
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    others = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    groups = [{"params": others, "lr": 0.01}, {"params": biases, "lr": 0.1}]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 30, gamma=0.5)


def _with_own_loader(library: Any) -> Any:
    class Own(library.Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(self.train_dataset, batch_size=8, shuffle=True)

    return Own


class _Noisy(Rows):
    """Samples that are augmented with random numbers of torch's default generator."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        return {**sample, "x": sample["x"] + 0.1 * torch.randn(4)}


class _Batches:
    """A loader that is none: batches in an order of its own, without a data set."""

    def __init__(self, samples: list[dict[str, Any]]) -> None:
        self.batches = [default_collate(samples[first : first + 6]) for first in range(0, len(samples), 6)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter([self.batches[index] for index in torch.randperm(len(self.batches)).tolist()])


def _with_batches(library: Any) -> Any:
    class Own(library.Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return _Batches(self.train_dataset.samples)

    return Own


def _evaluate_and_predict(when: str, trainer: Any) -> None:
    trainer.evaluate()
    trainer.predict(points(12, seed=2))


def _new_model() -> torch.nn.Module:
    return Perceptron()


def _language(**args: Any) -> Cell:
    return Cell(model=causal_lm, data=sentences, args=args)


CELLS: dict[str, Cell] = {
    # ---- models
    "defaults": Cell(),
    "a tuple as output": Cell(model=TupleModel),
    "a classifier": Cell(model=classifier, data=classified),
    "a causal LM": _language(),
    "a causal LM with tied embeddings": Cell(model=gpt2, data=sentences),
    # ---- windows
    "4 micro-batches": Cell(args={"gradient_accumulation_steps": 4, "num_train_epochs": 50}),
    "a partial last batch": Cell(data=lambda: points(PARTIAL), args={"num_train_epochs": 15}),
    "a partial last window": Cell(
        data=lambda: points(PARTIAL), args={"gradient_accumulation_steps": 4, "num_train_epochs": 50}
    ),
    "a partial last window of a causal LM": Cell(
        model=causal_lm,
        data=lambda: sentences(PARTIAL),
        args={"gradient_accumulation_steps": 4, "num_train_epochs": 50},
    ),
    "a window longer than the epoch": Cell(args={"gradient_accumulation_steps": 20, "num_train_epochs": 100}),
    "a last batch left out": Cell(
        data=lambda: points(PARTIAL), args={"dataloader_drop_last": True, "num_train_epochs": 17}
    ),
    "memories of the batch before": Cell(model=Recurrent, args={"past_index": 1}),
    "a stream": Cell(data=lambda: Stream(points()), args={"max_steps": 100}),
    "windows of a stream": Cell(
        data=lambda: Stream(points()), args={"max_steps": 100, "gradient_accumulation_steps": 4}
    ),
    # ---- horizons
    "13.3 epochs": Cell(args={"num_train_epochs": 13.3}),
    "12.5 epochs of windows": Cell(
        data=lambda: points(PARTIAL), args={"num_train_epochs": 50.5, "gradient_accumulation_steps": 3}, steps=150
    ),
    "100 steps over epochs": Cell(args={"max_steps": 100}),
    "100 steps over partial windows": Cell(
        data=lambda: points(PARTIAL), args={"max_steps": 100, "gradient_accumulation_steps": 4}
    ),
    # ---- the order of the data
    "another seed": Cell(args={"seed": 7}),
    "a seed of the data": Cell(args={"data_seed": 123}),
    "a loader of the user": Cell(subclass=_with_own_loader),
    "batches of the user": Cell(
        subclass=_with_batches, args={"gradient_accumulation_steps": 2, "num_train_epochs": 20}
    ),
    # With dropout too, the two would take turns otherwise: accelerate loads a batch ahead of the step that uses it.
    "augmented samples": Cell(model=partial(Perceptron, dropout=0.0), data=lambda: _Noisy(points().samples)),
    "workers": Cell(args={"dataloader_num_workers": 1, "dataloader_persistent_workers": True}),
    "an unseeded sampler": Cell(args={"accelerator_config": {"use_seedable_sampler": False}}),
    "grouped by length": Cell(
        model=classifier, data=ragged, args={"group_by_length": True}, trainer={"data_collator": pad}
    ),
    "windows grouped by length": Cell(
        model=classifier,
        data=ragged,
        args={"group_by_length": True, "gradient_accumulation_steps": 2, "num_train_epochs": 26},
        trainer={"data_collator": pad},
    ),
    # ---- schedules
    **{f"schedule {name}": _schedule(name) for name in SCHEDULES},
    "a warmup ratio": Cell(args={"warmup_ratio": 0.13}),
    # ---- losses
    "label smoothing": Cell(model=classifier, data=classified, args={"label_smoothing_factor": 0.1}),
    "label smoothing of a causal LM": _language(
        label_smoothing_factor=0.1, gradient_accumulation_steps=2, num_train_epochs=25
    ),
    "a loss function": Cell(
        model=causal_lm,
        data=sentences,
        args={"gradient_accumulation_steps": 4, "num_train_epochs": 50},
        trainer={"compute_loss_func": weighted_loss},
    ),
    "noise on the embeddings": _language(neftune_noise_alpha=5.0),
    # ---- updates
    "weight decay": Cell(args={"weight_decay": 0.1}),
    "weight decay of a transformer": Cell(model=gpt2, data=sentences, args={"weight_decay": 0.1}),
    "no clipping": Cell(args={"max_grad_norm": 0.0}),
    "clipping to a small norm": Cell(args={"max_grad_norm": 0.1}),
    "fused": Cell(args={"optim": "adamw_torch_fused"}),
    "adagrad": Cell(args={"optim": "adagrad"}),
    "rmsprop": Cell(args={"optim": "rmsprop"}),
    "sgd": Cell(args={"optim": "sgd"}),
    "adafactor": Cell(args={"optim": "adafactor"}),
    "optimizer and schedule of the user": Cell(optimizers=_two_groups),
    "a class of optimizers": Cell(trainer={"optimizer_cls_and_kwargs": (torch.optim.Adamax, {"lr": 0.01})}),
    "model_init": Cell(trainer={"model_init": _new_model}),
    "trained twice": Cell(use=lambda when, trainer: trainer.train() if when == "before" else None),
    # ---- memory and precision
    "gradient checkpointing": _language(gradient_checkpointing=True),
    "gradient checkpointing with arguments": _language(
        gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False}
    ),
    "bf16 autocast": Cell(args={"bf16": True}, tolerance=BF16_TOLERANCE),
    "bf16 autocast of a causal LM": Cell(
        model=causal_lm, data=sentences, args={"bf16": True}, tolerance=BF16_TOLERANCE
    ),
    # ---- evaluation and saving in between draw random numbers
    "evaluation in between": Cell(
        args={"eval_strategy": "steps", "eval_steps": 5, "eval_on_start": True}, eval_data=lambda: points(20, seed=1)
    ),
    "tokens in the rows": _language(include_num_input_tokens_seen=True),
    "used before and after": Cell(use=_evaluate_and_predict, eval_data=lambda: points(20, seed=1)),
    "saving in between": Cell(args={"save_strategy": "steps", "save_steps": 30}),
}

SHORT = ("defaults", "a partial last window of a causal LM", "a classifier", "100 steps over partial windows")
"""Cells that stand for the rest where there is no time for all."""

__all__ = ["CELLS", "SHORT"]
