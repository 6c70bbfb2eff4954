from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from torch.utils.data import DataLoader, IterableDataset

from hftrain import Trainer
from hftrain.errors import ConfigurationError
from tests.trainer.tasks import Model, Points, arguments


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(20))


LOADERS: dict[str, Any] = {
    "64 samples": lambda: DataLoader(Points(64), batch_size=8),
    "a partial last batch": lambda: DataLoader(Points(52), batch_size=8),
    "a last batch left out": lambda: DataLoader(Points(52), batch_size=8, drop_last=True),
    "one batch": lambda: DataLoader(Points(5), batch_size=8),
    "no length": lambda: DataLoader(Stream(), batch_size=8),
}


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_train_epochs": 1.5},
        {"num_train_epochs": 0.3, "gradient_accumulation_steps": 4},
        {"gradient_accumulation_steps": 3},
        {"max_steps": 10},
        {"max_steps": 7, "gradient_accumulation_steps": 20},
    ],
)
def test_a_run_is_as_long_as_in_the_reference(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    options = {"per_device_train_batch_size": 8, "num_train_epochs": 3, "use_cpu": True, "report_to": [], **changes}
    ours = Trainer(Model(), arguments(tmp_path, **options), train_dataset=Points())
    theirs = transformers.Trainer(
        Model(), transformers.TrainingArguments(str(tmp_path), **options), train_dataset=Points()
    )
    total = ours.get_total_train_batch_size(ours.args)
    assert total == theirs.get_total_train_batch_size(theirs.args)
    if name == "no length" and "max_steps" not in changes:
        with pytest.raises(ConfigurationError, match="has no length"):
            ours.set_initial_training_values(ours.args, LOADERS[name](), total)
        return
    expected = theirs.set_initial_training_values(theirs.args, LOADERS[name](), total)
    assert ours.set_initial_training_values(ours.args, LOADERS[name](), total) == expected


def test_an_override_decides_how_long_a_run_is(tmp_path: Path) -> None:
    class Short(Trainer):
        def set_initial_training_values(self, args: Any, dataloader: Any, total_train_batch_size: int) -> Any:
            *others, max_steps = super().set_initial_training_values(args, dataloader, total_train_batch_size)
            return (*others, max_steps - 5)

    ours = Short(Model(), arguments(tmp_path, num_train_epochs=1), train_dataset=Points())
    assert ours.train().global_step == 3
    assert ours.state.max_steps == 3


def test_the_size_of_a_step_counts_the_whole_window(tmp_path: Path) -> None:
    class Doubled(Trainer):
        def get_total_train_batch_size(self, args: Any) -> int:
            return 2 * super().get_total_train_batch_size(args)

    options: dict[str, Any] = {"gradient_accumulation_steps": 3, "max_steps": 2}
    sizes = []
    for kind in (Trainer, Doubled):
        ours = kind(Model(), arguments(tmp_path, **options), train_dataset=Points())
        ours.train()
        last = ours.state.log_history[-1]
        sizes.append(last["train_samples_per_second"] / last["train_steps_per_second"])
    assert sizes == pytest.approx([24, 48], rel=0.05)
