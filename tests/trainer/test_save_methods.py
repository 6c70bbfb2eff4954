"""Each piece of a checkpoint is one method of the Trainer, and an override of it takes effect in a real run."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hftrain import Trainer, TrainerCallback, TrainerState
from hftrain.checkpoint.foreign import open_any
from hftrain.errors import CheckpointError, ConfigurationError
from tests.trainer.pretrained import StopAt
from tests.trainer.tasks import Fit, Points, arguments, trainer, weights

SAVING = (
    "_save_checkpoint",
    "save_model",
    "_save",
    "_save_optimizer_and_scheduler",
    "_save_scaler",
    "_save_rng_state",
    "_rotate_checkpoints",
)
LOADING = ("_load_from_checkpoint", "_load_optimizer_and_scheduler", "_load_scaler", "_load_callback_state")


def run(
    folder: Path, kind: type[Trainer] = Trainer, resume: Any = None, callbacks: Any = None, **changes: Any
) -> Trainer:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 1, **changes}
    torch.manual_seed(0)
    ours = kind(model=Fit(), args=arguments(folder, **settings), train_dataset=Points(), callbacks=callbacks)
    ours.train(resume_from_checkpoint=resume)
    return ours


def recording(names: tuple[str, ...], calls: list[tuple[str, tuple[Any, ...]]]) -> type[Trainer]:
    """A Trainer that writes down which of its methods are called, and with what."""

    def method(name: str) -> Any:
        def override(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append((name, args))
            return getattr(Trainer, name)(self, *args, **kwargs)

        return override

    return type("Recording", (Trainer,), {name: method(name) for name in names})


def test_a_save_calls_each_of_its_methods_with_the_checkpoints_folder(tmp_path: Path) -> None:
    calls: list[tuple[str, tuple[Any, ...]]] = []
    run(tmp_path, recording(SAVING, calls), save_steps=8)
    assert [name for name, _ in calls] == list(SAVING)
    folder = str(tmp_path / "checkpoint-8")
    assert all(args == (folder,) for name, args in calls[1:-1])


def test_a_resume_calls_each_of_its_methods(tmp_path: Path) -> None:
    run(tmp_path, callbacks=[StopAt(4)])
    calls: list[tuple[str, tuple[Any, ...]]] = []
    run(tmp_path, recording((*LOADING, "_load_rng_state"), calls), resume=True)
    assert [name for name, _ in calls] == [*LOADING, "_load_rng_state"]
    folder = str(tmp_path / "checkpoint-4")
    assert [args for name, args in calls] == [(folder,), (folder,), (folder,), (), (folder,)]


def test_only_the_model_is_saved_where_that_is_asked(tmp_path: Path) -> None:
    calls: list[tuple[str, tuple[Any, ...]]] = []
    run(tmp_path, recording(SAVING, calls), save_steps=8, save_only_model=True)
    assert [name for name, _ in calls] == ["_save_checkpoint", "save_model", "_save", "_rotate_checkpoints"]


def test_what_an_override_of_save_writes_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    class Noting(Trainer):
        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            super()._save(output_dir, state_dict)
            Path(output_dir or "", "notes.txt").write_text("mine")

    run(tmp_path, Noting)
    for step in (4, 8):
        assert open_any(str(tmp_path / f"checkpoint-{step}"), verify="full").file("notes.txt") == b"mine"


def test_an_override_may_write_the_model_without_ours(tmp_path: Path) -> None:
    class Own(Trainer):
        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            import safetensors.torch

            safetensors.torch.save_file(self.model.state_dict(), Path(output_dir or "", "model.safetensors"))

    whole = run(tmp_path / "whole")
    run(tmp_path / "cut", Own, callbacks=[StopAt(4)])
    assert torch.equal(weights(run(tmp_path / "cut", Own, resume=True).model), weights(whole.model))


def test_an_override_may_save_other_weights(tmp_path: Path) -> None:
    class Averaged(Trainer):
        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            super()._save(output_dir, {name: torch.zeros_like(it) for name, it in self.model.state_dict().items()})

    run(tmp_path, Averaged)
    assert not any(tensor.any() for tensor in open_any(str(tmp_path / "checkpoint-8")).model().values())


def test_an_override_may_keep_all_checkpoints(tmp_path: Path) -> None:
    class Keeping(Trainer):
        def _rotate_checkpoints(self, use_mtime: bool = False, output_dir: str | None = None) -> None:
            assert output_dir == str(tmp_path)

    run(tmp_path, Keeping, save_steps=2, num_train_epochs=1, max_steps=7, save_total_limit=3)
    names = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert names == [f"checkpoint-{step}" for step in (2, 4, 6, 7)]


def test_an_override_may_put_checkpoints_elsewhere(tmp_path: Path) -> None:
    class Elsewhere(Trainer):
        def _get_output_dir(self, trial: Any = None) -> str:
            return str(tmp_path / "trial")

    run(tmp_path / "out", Elsewhere, callbacks=[StopAt(4)])
    assert (tmp_path / "trial/checkpoint-4/MANIFEST.json").exists()
    assert run(tmp_path / "out", Elsewhere, resume=True).state.global_step == 8


def test_an_override_may_load_the_best_itself(tmp_path: Path) -> None:
    class Own(Trainer):
        def _load_best_model(self) -> None:
            for parameter in self.model.parameters():
                parameter.data.zero_()

    settings = {"eval_strategy": "steps", "eval_steps": 4, "load_best_model_at_end": True}
    torch.manual_seed(0)
    args = arguments(tmp_path, save_strategy="steps", save_steps=4, **settings)
    ours = Own(model=Fit(), args=args, train_dataset=Points(), eval_dataset=Points(8))
    ours.train()
    assert not weights(ours.model).any()


def test_an_override_hears_of_what_did_not_fit(tmp_path: Path) -> None:
    heard = []

    class Listening(Trainer):
        def _issue_warnings_after_load(self, load_result: Any) -> None:
            heard.append((load_result.missing_keys, load_result.unexpected_keys))

    run(tmp_path, callbacks=[StopAt(4)])
    run(tmp_path, Listening, resume=True)
    assert heard == [([], [])]


def test_an_output_folder_of_an_unknown_protocol_is_refused(tmp_path: Path) -> None:
    ours = trainer("nosuch://x")
    with pytest.raises(ConfigurationError, match=r"output_dir='nosuch://x' cannot be written: .*Protocol not known"):
        ours.train()


def test_an_error_of_an_override_leaves_no_checkpoint(tmp_path: Path) -> None:
    class Broken(Trainer):
        def _save_rng_state(self, output_dir: str) -> None:
            if self.state.global_step == 8:
                raise ValueError("mine")
            super()._save_rng_state(output_dir)

    with pytest.raises(ValueError, match="mine"):
        run(tmp_path, Broken)
    assert trainer(tmp_path)._new_checkpoints().resolve(True) == str(tmp_path / "checkpoint-4")


class Unsaved(Trainer):
    def _save_rng_state(self, output_dir: str) -> None:
        raise ValueError("mine")


class Full(Trainer):
    def _save_rng_state(self, output_dir: str) -> None:
        raise OSError("the disk is full")


class Refusing(TrainerCallback):
    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise CheckpointError("mine")


class Contrary(Trainer):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, callbacks=[Refusing()])


@pytest.mark.parametrize(("kind", "resume"), [(Unsaved, None), (Full, None), (Trainer, True), (Contrary, None)])
def test_a_run_that_failed_at_a_checkpoint_is_freed_without_the_garbage_collector(
    tmp_path: Path, kind: type[Trainer], resume: Any
) -> None:
    ours = kind(model=Fit(), args=arguments(tmp_path, save_strategy="steps", save_steps=4), train_dataset=Points())
    model = weakref.ref(ours.model)
    gc.disable()
    try:
        with pytest.raises((ValueError, CheckpointError)) as caught:
            ours.train(resume_from_checkpoint=resume)
        del ours, caught
        assert model() is None
    finally:
        gc.enable()


def test_a_model_saved_in_a_callback_goes_where_it_is_told(tmp_path: Path) -> None:
    class Exporting(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                ours[0].save_model(str(tmp_path / "export"))

    ours: list[Trainer] = []

    class Kept(Trainer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            ours.append(self)

    run(tmp_path / "out", Kept, callbacks=[Exporting()])
    assert Fit.from_checkpoint(str(tmp_path / "export")) is not None
    assert not (tmp_path / "export/MANIFEST.json").exists()


def test_what_a_callback_does_to_a_checkpoint_when_it_is_saved_leaves_it_whole(tmp_path: Path) -> None:
    class Editing(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
            (folder / "notes.txt").write_text("mine")
            (folder / "scheduler.json").unlink()
            weights = bytearray((folder / "model.safetensors").read_bytes())
            weights[-1] ^= 1
            (folder / "model.safetensors").write_bytes(weights)

    run(tmp_path, callbacks=[Editing()])
    for step in (4, 8):
        reader = open_any(str(tmp_path / f"checkpoint-{step}"), verify="full")
        assert reader.file("notes.txt") == b"mine"
        assert not reader.has("scheduler")


def test_a_callback_may_remove_a_checkpoint_that_was_saved(tmp_path: Path) -> None:
    class Removing(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            shutil.rmtree(Path(args.output_dir, f"checkpoint-{state.global_step}"))

    run(tmp_path, callbacks=[Removing()])
    assert not list(tmp_path.glob("checkpoint-*"))


def test_numbers_of_numpy_and_torch_in_the_rows_are_saved_as_numbers(tmp_path: Path) -> None:
    class Logging(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            state.log_history[-1].update(numpy=np.float32(0.5), torch=torch.tensor(2))

    run(tmp_path, callbacks=[Logging()])
    row = json.loads((tmp_path / "checkpoint-8/trainer_state.json").read_text())["log_history"][0]
    assert (row["numpy"], row["torch"]) == (0.5, 2)


def test_safetensors_are_written_where_pickles_were_asked_for_and_a_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, save_safetensors=False)
    assert "written as safetensors all the same" in caplog.text
    assert (tmp_path / "checkpoint-8/model.safetensors").exists()
    assert not list(tmp_path.glob("checkpoint-8/*.bin"))


# ---- changed arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"logging_steps": 5}, "logging_steps: 5 (from args) != 4 (from trainer_state.json)"),
        ({"save_steps": 2}, "save_steps: 2 (from args) != 8 (from trainer_state.json)"),
        ({"save_steps": 0.25}, "save_steps: 25 (from args) != 8 (from trainer_state.json)"),
        ({"per_device_train_batch_size": 4}, "per_device_train_batch_size: 4 (from args) != 8"),
    ],
)
def test_arguments_that_are_not_the_checkpoints_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], line: str
) -> None:
    state = TrainerState(logging_steps=4, save_steps=8, eval_steps=500, train_batch_size=8, max_steps=100)
    ours = trainer(tmp_path, **{"logging_steps": 4, "save_steps": 8, **changes})
    ours.compare_trainer_and_checkpoint_args(ours.args, state)
    assert line in caplog.text


def test_equal_arguments_give_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, callbacks=[StopAt(4)])
    with caplog.at_level(logging.WARNING, "hftrain"):
        run(tmp_path, resume=True)
    assert caplog.text == ""


def test_a_resume_names_changed_arguments(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, callbacks=[StopAt(4)])
    run(tmp_path, resume=True, logging_steps=2)
    assert "logging_steps: 2 (from args) != 4 (from trainer_state.json)" in caplog.text
