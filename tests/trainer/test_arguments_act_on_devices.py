"""Arguments about devices, processes, loaders and the log act. `tests/args/argument_table.py` has the map.

What only a GPU or several processes can show is followed here to the setting that the engine or the loader gets;
the tests of `tests/hardware`, `tests/distributed` and `tests/gpu` go on from there.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hftrain import DataModule, Trainer, TrainingArguments
from hftrain.errors import ConfigurationError
from hftrain.hardware.devices import resolve_accelerator
from hftrain.hardware.settings import EngineSettings
from hftrain.trainer.settings import check_autocast_backend, engine_settings, loader_settings, loop_settings
from tests.trainer.tasks import Model, Points, arguments, trainer


def quiet_arguments(**changes: Any) -> TrainingArguments:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=FutureWarning)  # old spellings
        warnings.simplefilter("ignore", category=UserWarning)
        return TrainingArguments("out", **changes)


def accelerator_config(**keys: Any) -> dict[str, Any]:
    return {"accelerator_config": keys}


@pytest.mark.parametrize(
    ("changes", "setting", "expected"),
    [
        ({"use_cpu": True}, "accelerator", "cpu"),
        ({"no_cuda": True}, "accelerator", "cpu"),
        ({"use_mps_device": True}, "accelerator", "mps"),
        ({"bf16": True}, "precision", "bf16"),
        ({"fp16": True}, "precision", "fp16"),
        ({"bf16_full_eval": True}, "full_eval", "bf16"),
        ({"fp16_full_eval": True}, "full_eval", "fp16"),
        ({"tf32": True}, "tf32", True),
        ({"tf32": False}, "tf32", False),
        ({"ddp_backend": "gloo"}, "ddp_backend", "gloo"),
        ({"ddp_timeout": 7}, "ddp_timeout_s", 7.0),
        ({"ddp_find_unused_parameters": True}, "ddp_find_unused_parameters", True),
        ({"ddp_bucket_cap_mb": 3}, "ddp_bucket_cap_mb", 3),
        ({"ddp_broadcast_buffers": False}, "ddp_broadcast_buffers", False),
        ({"torch_compile": True}, "compile", True),
        ({"torch_compile_backend": "eager"}, "compile_backend", "eager"),
        ({"torch_compile_mode": "default"}, "compile_mode", "default"),
        (accelerator_config(non_blocking=True), "non_blocking", True),
    ],
)
def test_the_engine_is_told(changes: dict[str, Any], setting: str, expected: Any) -> None:
    default = engine_settings(quiet_arguments())
    assert default == EngineSettings()
    assert getattr(engine_settings(quiet_arguments(**changes)), setting) == expected != getattr(default, setting)


@pytest.mark.parametrize(
    ("changes", "setting", "expected"),
    [
        ({"dataloader_pin_memory": False}, "pin_memory", False),
        (accelerator_config(split_batches=True), "split_batches", True),
        (accelerator_config(even_batches=False), "even_batches", False),
    ],
)
def test_the_loaders_are_told(changes: dict[str, Any], setting: str, expected: Any) -> None:
    engine = SimpleNamespace(process_index=1, world_size=2, device=torch.device("cuda"))
    for training in (True, False):
        default = loader_settings(quiet_arguments(), engine, training=training)
        told = loader_settings(quiet_arguments(**changes), engine, training=training)
        assert getattr(told, setting) == expected != getattr(default, setting)
        assert told.worker_options(training=training)["pin_memory"] is (setting != "pin_memory")


def test_the_loop_is_told_to_sync_after_each_batch() -> None:
    config = accelerator_config(gradient_accumulation_kwargs={"sync_each_batch": True})
    found = [loop_settings(quiet_arguments(**changes)).sync_each_batch for changes in ({}, config)]
    assert found == [False, True]


def test_the_run_is_on_the_device_that_is_asked_for(tmp_path: Path) -> None:
    found: list[str] = []

    class Where(Trainer):
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Tensor | None = None) -> Tensor:
            loss = super().training_step(model, inputs, num_items_in_batch)
            found.append(loss.device.type)
            return loss

    for changes in ({"use_cpu": True}, {"use_cpu": False}):
        Where(Model(), arguments(tmp_path, max_steps=1, **changes), train_dataset=Points()).train()
    assert found == ["cpu", resolve_accelerator("auto")]


@pytest.mark.parametrize(("backend", "device"), [("cuda_amp", "cpu"), ("cpu_amp", "cuda")])
def test_an_autocast_backend_of_another_device_is_refused(backend: str, device: str) -> None:
    for name in ("half_precision_backend", "fp16_backend"):
        args = quiet_arguments(bf16=True, **{name: backend})
        with pytest.raises(ConfigurationError, match=f"half_precision_backend='{backend}' computes on"):
            check_autocast_backend(args, device)
    check_autocast_backend(quiet_arguments(bf16=True), device)


# ---- loaders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "attribute", "expected"),
    [
        ({}, "num_workers", 0),
        ({"dataloader_num_workers": 2}, "num_workers", 2),
        ({"dataloader_num_workers": 2, "dataloader_prefetch_factor": 5}, "prefetch_factor", 5),
        ({"dataloader_num_workers": 2, "dataloader_persistent_workers": True}, "persistent_workers", True),
    ],
)
def test_the_trainers_loaders_have_the_workers(
    tmp_path: Path, changes: dict[str, Any], attribute: str, expected: Any
) -> None:
    ours = trainer(tmp_path, **changes)
    loaders = [ours.get_train_dataloader(), ours.get_eval_dataloader(), ours.get_test_dataloader(Points())]
    assert [getattr(loader, attribute) for loader in loaders] == [expected] * 3


def test_workers_read_the_data(tmp_path: Path) -> None:
    data = Points()
    ours = trainer(tmp_path, data=DataModule(train=data), num_train_epochs=1, dataloader_num_workers=1)
    assert ours.train().global_step == 8
    assert data.fetched == []  # another process has read


class Noting(Trainer):
    """Notes the keys of the batches that reach the loss."""

    keys: set[str]

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        self.keys = set(inputs)
        return super().compute_loss(model, {"x": inputs["x"], "y": inputs["y"]}, return_outputs, **kwargs)


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, {"x", "y"}),
        ({"remove_unused_columns": False}, {"x", "y", "goal", "extra"}),
        ({"label_names": ["goal"]}, {"x", "y", "goal"}),
    ],
)
def test_a_batch_holds_what_the_model_takes_and_the_labels(
    tmp_path: Path, changes: dict[str, Any], keys: set[str]
) -> None:
    rows = [{**row, "goal": 1.0, "extra": 2.0} for row in (Points()[i] for i in range(8))]
    ours = Noting(Model(), arguments(tmp_path, max_steps=1, **changes), train_dataset=rows)
    ours.train()
    assert ours.keys == keys


# ---- the log ----------------------------------------------------------------------------------------


@pytest.fixture
def package_logger() -> Iterator[logging.Logger]:
    found = logging.getLogger("hftrain")
    level, handlers = found.level, [*found.handlers]
    yield found
    found.setLevel(level)
    found.handlers[:] = handlers


@pytest.mark.parametrize(
    ("rank", "changes", "level"),
    [
        (0, {"log_level": "error"}, logging.ERROR),
        (0, {"log_level": "debug", "log_level_replica": "error"}, logging.DEBUG),
        (1, {"log_level": "debug", "log_level_replica": "error"}, logging.ERROR),
        (2, {"log_level": "debug", "log_level_replica": "error"}, logging.DEBUG),
        (2, {"log_level": "debug", "log_level_replica": "error", "log_on_each_node": False}, logging.ERROR),
    ],
)
def test_a_process_of_two_nodes_logs_at_its_level(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package_logger: logging.Logger,
    rank: int,
    changes: dict[str, Any],
    level: int,
) -> None:
    variables = {"RANK": rank, "LOCAL_RANK": rank % 2, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    trainer(tmp_path, **changes)
    assert package_logger.level == level
