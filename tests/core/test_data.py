from __future__ import annotations

import pytest

from hftrain.core.data import DataModule
from hftrain.errors import DataError


class Own(DataModule):
    def __init__(self) -> None:
        self.ready = False

    def setup(self, stage: str) -> None:
        self.ready = True

    def train_data(self) -> list[int]:
        return [1, 2]


def test_the_data_sets_given_are_the_data() -> None:
    module = DataModule(train=[1], eval={"a": [2]}, test=[3], predict=[4])
    assert (module.train_data(), module.eval_data(), module.test_data(), module.predict_data()) == (
        [1],
        {"a": [2]},
        [3],
        [4],
    )


def test_a_subclass_without_super_init_overrides_what_it_has() -> None:
    module = Own()
    assert (module.train_data(), module.has("train"), module.has("eval")) == ([1, 2], True, False)


@pytest.mark.parametrize("split", ["train", "eval", "test", "predict"])
def test_missing_data_says_how_to_give_it(split: str) -> None:
    with pytest.raises(DataError, match=rf"Pass DataModule\({split}=...\), or override {split}_data\(\)"):
        getattr(DataModule(), f"{split}_data")()
