"""What a step counts over two gloo processes, beside one process with the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.launch import launch
from tests.trainer.models import WeightedTagger, token_trainer
from tests.trainer.tasks import weights

pytestmark = pytest.mark.slow


class Priced(WeightedTagger):
    """Says what a batch costs."""

    def floating_point_ops(self, inputs: dict[str, torch.Tensor]) -> int:
        return 100 * inputs["input_ids"].numel()


def train(folder: str, batch_size: int, average: bool) -> dict[str, Any]:
    ours = token_trainer(
        Path(folder),
        Priced,
        per_device_train_batch_size=batch_size,
        average_tokens_across_devices=average,
        include_num_input_tokens_seen=True,
        logging_steps=2,
    )
    ours.train()
    rows = [row["num_input_tokens_seen"] for row in ours.state.log_history]
    return {"weights": weights(ours.model).tolist(), "rows": rows, "flos": ours.state.total_flos}


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, list[dict[str, Any]]]:
    folder = str(tmp_path_factory.mktemp("two"))
    return {average: launch(train, folder, 4, average) for average in (True, False)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train(str(tmp_path_factory.mktemp("one")), 8, average=False)


@pytest.mark.parametrize("average", [True, False])
def test_the_loss_is_weighted_over_all_processes_only_when_that_is_asked(
    in_two_processes: dict[bool, list[dict[str, Any]]], alone: dict[str, Any], average: bool
) -> None:
    for rank in in_two_processes[average]:
        is_exact = rank["weights"] == pytest.approx(alone["weights"], abs=1e-6)
        assert is_exact is average


def test_tokens_and_operations_are_those_of_all_processes(
    in_two_processes: dict[bool, list[dict[str, Any]]], alone: dict[str, Any]
) -> None:
    assert alone["rows"] == [64, 128, 128]
    for rank in in_two_processes[True]:
        assert (rank["rows"], rank["flos"]) == (alone["rows"], alone["flos"])


class Sparing(WeightedTagger):
    """Has a layer that forward does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = torch.nn.Linear(1, 1)


def train_sparing(folder: str) -> int:
    ours = token_trainer(Path(folder), Sparing)
    ours.train()
    return ours.state.global_step


def test_a_model_may_leave_parameters_unused(tmp_path: Path) -> None:
    assert launch(train_sparing, str(tmp_path)) == [4, 4]
