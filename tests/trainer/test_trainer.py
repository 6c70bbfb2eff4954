from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hftrain import PrinterCallback, Trainer, TrainerCallback
from hftrain.errors import NotAvailableError
from tests.args.test_argument_table import ids_in
from tests.trainer.method_table import METHODS
from tests.trainer.tasks import Model, arguments, trainer

SURFACE: dict[str, Any] = json.loads(Path(__file__).with_name("surface_v4.53.1.json").read_text())


def test_every_documented_method_has_a_test_that_is_there() -> None:
    assert METHODS.keys() == SURFACE["Trainer"].keys() | SURFACE["Seq2SeqTrainer"].keys()
    assert {one for one in METHODS.values() if one not in ids_in(one.partition("::")[0])} == set()


class Hears(TrainerCallback):
    steps = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps += 1


def test_callbacks_are_added_popped_and_removed(tmp_path: Path) -> None:
    ours, first = trainer(tmp_path, max_steps=2), Hears()
    ours.add_callback(first)
    ours.train()
    assert first.steps == 2
    assert ours.pop_callback(Hears) is first
    assert ours.pop_callback(Hears) is None
    ours.add_callback(PrinterCallback)
    ours.remove_callback(PrinterCallback)
    assert not any(isinstance(callback, PrinterCallback) for callback in ours.callback_handler.callbacks)


@pytest.mark.parametrize(("bf16", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_the_context_of_the_loss_is_the_precisions(tmp_path: Path, bf16: bool, dtype: torch.dtype) -> None:
    ours = Trainer(Model(), arguments(tmp_path, bf16=bf16))
    for context in (ours.compute_loss_context_manager, ours.autocast_smart_context_manager):
        with context():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype


def test_a_model_can_be_asked_for(tmp_path: Path) -> None:
    ours = Trainer(args=arguments(tmp_path), model_init=Model)
    assert isinstance(ours.call_model_init(), Model)
    assert ours.call_model_init() is not ours.model


def test_the_main_process_knows_that_it_is(tmp_path: Path) -> None:
    ours = trainer(tmp_path)
    assert ours.is_local_process_zero()
    assert ours.is_world_process_zero()


def test_a_layer_is_whole_on_every_process(tmp_path: Path) -> None:
    assert trainer(tmp_path).get_tp_size() == 1
    spread = Model()
    spread._tp_size = 2  # type: ignore[assignment]
    with pytest.raises(NotAvailableError, match="tensor parallel"):
        Trainer(spread, arguments(tmp_path))
