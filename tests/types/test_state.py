from __future__ import annotations

import dataclasses
import inspect
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import trainer_callback

from hftrain.errors import CheckpointError, ConfigurationError
from hftrain.types.control import TrainerControl
from hftrain.types.state import TrainerState

theirs: Any = trainer_callback
SURFACE: dict[str, Any] = json.loads(Path(__file__).with_name("surface_v4.53.1.json").read_text())

# Where our type says more, or says it truer, than the documented one.
TYPES = {"trial_params": "dict[str, str | float | int | bool] | None", "stateful_callbacks": "dict[str, Any]"}


def trainer(**attributes: Any) -> SimpleNamespace:
    return SimpleNamespace(is_local_process_zero=lambda: True, is_world_process_zero=lambda: False, **attributes)


def modern(annotation: str) -> str:
    inner = annotation.removeprefix("Optional[").removesuffix("]")
    return f"{inner} | None" if annotation.startswith("Optional[") else annotation


def test_the_fields_types_and_defaults_are_the_documented_ones() -> None:
    ours = {field.name: (field.type, field.default) for field in dataclasses.fields(TrainerState)}
    assert ours == {
        row["name"]: (TYPES.get(row["name"], modern(row["type"])), row["default"]) for row in SURFACE["TrainerState"]
    }


@pytest.mark.parametrize("name", SURFACE["TrainerState_methods"])
def test_the_methods_take_what_is_documented(name: str) -> None:
    documented = SURFACE["TrainerState_methods"][name]
    names = [part.split("=")[0].strip() for part in documented.strip("()").split(",")]
    assert list(inspect.signature(getattr(TrainerState, name)).parameters) == names


def test_a_new_state_holds_what_the_reference_s_holds() -> None:
    assert vars(TrainerState()) == vars(theirs.TrainerState())


def test_the_written_file_is_the_reference_s_byte_for_byte(tmp_path: Path) -> None:
    values: dict[str, Any] = {"epoch": 0.5, "log_history": [{"loss": 1.5, "step": 1}, {"loss": float("nan")}]}
    for module, file in ((theirs, "theirs"), (None, "ours")):
        cls = module.TrainerState if module else TrainerState
        cls(**values).save_to_json(str(tmp_path / file))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    state = TrainerState(global_step=7, stateful_callbacks=[TrainerControl(should_log=True)])  # type: ignore[arg-type]
    state.save_to_json(tmp_path / "trainer_state.json")
    assert TrainerState.load_from_json(tmp_path / "trainer_state.json") == state
    assert [file.name for file in tmp_path.iterdir()] == ["trainer_state.json"]


def test_a_url_is_written_and_read_as_a_path_is() -> None:
    state = TrainerState(global_step=7)
    state.save_to_json("memory://state-of-a-run/trainer_state.json")
    assert TrainerState.load_from_json("memory://state-of-a-run/trainer_state.json") == state


def test_a_metric_that_is_a_numpy_number_is_written_as_a_number(tmp_path: Path) -> None:
    TrainerState(log_history=[{"eval_f1": np.float32(0.5)}]).save_to_json(tmp_path / "state.json")  # type: ignore[dict-item]
    assert TrainerState.load_from_json(tmp_path / "state.json").log_history == [{"eval_f1": 0.5}]


def test_a_field_of_a_newer_version_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state.json").write_text('{"global_step": 3, "mood": "good"}')
    with caplog.at_level(logging.WARNING):
        assert TrainerState.load_from_json(tmp_path / "state.json") == TrainerState(global_step=3)
    assert "'mood'" in caplog.text


@pytest.mark.parametrize("text", ['{"global_step": ', "[1, 2]"])
def test_a_file_that_holds_no_state_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json"):
        TrainerState.load_from_json(tmp_path / "state.json")


@pytest.mark.parametrize("steps", [0, 1, 7, 0.0001, 0.3, 0.999, 1.0, 2.0, None])
@pytest.mark.parametrize("max_steps", [1, 10, 101])
def test_steps_are_computed_as_the_reference_does(steps: float | None, max_steps: int) -> None:
    args = SimpleNamespace(logging_steps=steps, eval_steps=steps, save_steps=steps)
    ours, other = TrainerState(), theirs.TrainerState()
    ours.compute_steps(args, max_steps)
    other.compute_steps(args, max_steps)
    assert vars(ours) == vars(other)


def test_a_training_s_references_are_taken_as_the_reference_does() -> None:
    ours, other = TrainerState(), theirs.TrainerState()
    for state in (ours, other):
        state.init_training_references(trainer(hp_name=None, _trial=None), 10, 3, None)
    assert vars(ours) == vars(other)


@pytest.mark.parametrize(
    "trial", [{"lr": 0.1}, SimpleNamespace(params={"lr": 0.1}), SimpleNamespace(assignments={"lr": 0.1})]
)
def test_a_trial_of_any_backend_gives_its_name_and_parameters(trial: Any) -> None:
    state = TrainerState()
    state.init_training_references(trainer(hp_name=lambda trial: "first", _trial=trial), 10, 3, trial)
    assert (state.trial_name, state.trial_params) == ("first", {"lr": 0.1})


def test_a_trial_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="trial=5 says nothing of its hyperparameters"):
        TrainerState().init_training_references(trainer(), 10, 3, 5)


def test_callbacks_are_exported_under_their_class_s_name_and_twins_in_a_list() -> None:
    ours = TrainerState(stateful_callbacks=[TrainerControl(), TrainerControl(should_log=True)])  # type: ignore[arg-type]
    their_control = theirs.TrainerControl
    other = theirs.TrainerState(stateful_callbacks=[their_control(), their_control(should_log=True)])
    assert ours.stateful_callbacks == other.stateful_callbacks


def test_a_callback_of_the_reference_is_exported_too() -> None:
    state = TrainerState(stateful_callbacks=[theirs.EarlyStoppingCallback(3)])  # type: ignore[arg-type]
    assert state.stateful_callbacks["EarlyStoppingCallback"]["args"]["early_stopping_patience"] == 3


def test_an_object_without_state_is_named() -> None:
    with pytest.raises(TypeError, match="PrinterCallback.* must inherit ExportableState"):
        TrainerState(stateful_callbacks=[theirs.PrinterCallback()])  # type: ignore[arg-type]
