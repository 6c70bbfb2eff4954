"""`DataModule`: what a task is computed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hftrain.errors import DataError

Split = Any
"""A map-style or iterable data set, a list, a `datasets.Dataset`, or a ready `torch.utils.data.DataLoader`."""

STAGES = ("fit", "evaluate", "test", "predict")


class DataModule:
    """The data of each stage: pass data sets, or subclass and override the methods.

    Args:
        train: training data.
        eval: validation data, or a dict of named sets (``eval_<name>_loss`` ...).
        test: data that nothing is selected on.
        predict: data without labels.
        collate_fn: makes a batch from a list of samples; default: `torch.utils.data.default_collate`.
    """

    def __init__(
        self,
        train: Split | None = None,
        eval: Split | dict[str, Split] | None = None,
        test: Split | None = None,
        predict: Split | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self._splits = {"train": train, "eval": eval, "test": test, "predict": predict}
        if collate_fn is not None:
            self.collate_fn = collate_fn

    collate_fn: Callable[[list[Any]], Any] | None = None

    def prepare_data(self) -> None:
        """Download or convert, once per node before `setup`; leave no state on ``self``."""

    def setup(self, stage: str) -> None:
        """Load and split, on every process. ``stage``: "fit", "evaluate", "test" or "predict"."""

    def train_data(self) -> Split:
        """Return the training data."""
        return self._split("train")

    def eval_data(self) -> Split | dict[str, Split]:
        """Return the validation data, or a dict of named sets."""
        return self._split("eval")

    def test_data(self) -> Split:
        """Return the test data."""
        return self._split("test")

    def predict_data(self) -> Split:
        """Return the data to predict on."""
        return self._split("predict")

    def has(self, split: str) -> bool:
        """Whether the data of ``split`` ("train", "eval", "test", "predict") was given or is overridden."""
        method = f"{split}_data"
        return getattr(type(self), method) is not getattr(DataModule, method) or self._given(split) is not None

    def _given(self, split: str) -> Split | None:
        # A subclass need not call super().__init__().
        return self.__dict__.get("_splits", {}).get(split)

    def _split(self, split: str) -> Split:
        data = self._given(split)
        if data is None:
            raise DataError(
                f"{type(self).__name__} has no {split} data. Pass DataModule({split}=...), or override {split}_data()."
            )
        return data
