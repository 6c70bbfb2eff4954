"""A run that resumes from a stranger's checkpoint: it says what is wrong, and nothing of the stranger's runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hftrain.errors import CheckpointError
from tests.checkpoint.corpus.make import FOLDER, MANIFEST, NEVER_OPENED, PICKLED_FILES, TRAP, WRONG_VALUES
from tests.checkpoint.hostile import exchange
from tests.trainer.tasks import Fit, Model, trainer, weights

SETTINGS: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
OUR_FILES = ["data.json", "model.safetensors", "optimizer.json", "optimizer.safetensors", "rng-0.json"]
OUR_FILES += ["rng-0.safetensors", "run.json", "scheduler.json", "trainer_state.json"]
CASES = [(file, "a-pickle") for file in OUR_FILES]
CASES += [("model.safetensors", "a-tensor-of-an-exabyte"), ("optimizer.json", "tags-in-tags")]
CASES += [(file, case) for file in OUR_FILES for case in WRONG_VALUES.get(file, {})]
CASES.remove(("trainer_state.json", "a-method-in-a-callback"))  # its test below


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stranger")
    trainer(folder, **SETTINGS).train()
    return folder / "checkpoint-1"


@pytest.fixture
def copy(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(whole, tmp_path / "stranger/checkpoint-1"))


def changed(folder: Path, file: str, **changes: Any) -> None:
    document = json.loads((folder / file).read_bytes())
    exchange(folder, file, json.dumps(document | changes).encode())


def test_a_copied_checkpoint_is_resumed(copy: Path) -> None:
    run = trainer("out", **SETTINGS)
    run.train(resume_from_checkpoint=str(copy))
    assert run.state.global_step == 2


@pytest.mark.parametrize(("file", "case"), CASES)
def test_a_file_of_the_corpus_ends_the_resume(copy: Path, file: str, case: str) -> None:
    exchange(copy, file, (FOLDER / file / case).read_bytes())
    with pytest.raises(CheckpointError):
        trainer("out", **SETTINGS).train(resume_from_checkpoint=str(copy))
    assert not Path(TRAP).exists()
    assert not list(Path("out").glob("checkpoint-*"))


@pytest.mark.parametrize("case", ["a-pickle", "a-path-above", "a-run-elsewhere", "an-epoch-of-400-digits"])
def test_a_manifest_of_the_corpus_ends_the_resume(copy: Path, case: str) -> None:
    (copy / MANIFEST).write_bytes((FOLDER / MANIFEST / case).read_bytes())
    with pytest.raises(CheckpointError, match="cannot be resumed from"):
        trainer("out", **SETTINGS).train(resume_from_checkpoint=str(copy))


def test_a_hostile_folder_in_the_output_dir_is_passed_over(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(copy, "out/checkpoint-1")
    shutil.copytree(copy, "out/checkpoint-2")
    Path("out/checkpoint-2", MANIFEST).write_bytes((FOLDER / MANIFEST / "an-epoch-of-400-digits").read_bytes())
    run = trainer("out", **SETTINGS)
    run.train(resume_from_checkpoint=True)
    assert run._loaded_checkpoint in (None, "out/checkpoint-1")
    assert run.state.global_step == 2


@pytest.mark.parametrize("changes", [{"position": {"x": 1}}, {"position": {"epoch": -1}}, {"windows": [3]}])
def test_a_wrong_place_in_the_data_ends_the_resume(copy: Path, changes: dict[str, Any]) -> None:
    changed(copy, "data.json", **changes)
    with pytest.raises(CheckpointError):
        trainer("out", **SETTINGS).train(resume_from_checkpoint=str(copy))


def test_a_task_is_not_rebuilt_from_arguments_that_are_none(copy: Path) -> None:
    changed(copy, "task.json", arguments=["x"])
    with pytest.raises(CheckpointError, match="arguments"):
        Fit.from_checkpoint(str(copy))


def test_the_best_model_that_a_stranger_names_is_not_loaded(copy: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious/model"
    precious.mkdir(parents=True)
    safetensors.torch.save_file(
        {name: it * 0 for name, it in Fit().state_dict().items()}, precious / "model.safetensors"
    )
    changed(copy, "trainer_state.json", best_model_checkpoint=str(precious), best_global_step=1, best_metric=-1e9)
    run = trainer("out", **SETTINGS, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True)
    run.train(resume_from_checkpoint=str(copy))
    assert run.state.best_model_checkpoint is None
    assert weights(run.model).count_nonzero()


@pytest.mark.parametrize("file", [*PICKLED_FILES, NEVER_OPENED])
def test_a_reference_checkpoint_with_a_function_in_it_runs_nothing(file: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    model = Model()
    folder = Path("stranger/checkpoint-1")
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text('{"global_step": 1}')
    groups = [{"params": [parameter]} for parameter in model.parameters()]  # with decay and without
    torch.save(torch.optim.AdamW(groups).state_dict(), folder / "optimizer.pt")
    if file != "pytorch_model.bin":
        safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    case = "a-pickle" if file == NEVER_OPENED else "a-function"
    (folder / file).write_bytes((FOLDER / file / case).read_bytes())
    run = trainer("out", model, **SETTINGS)
    if file == NEVER_OPENED:
        run.train(resume_from_checkpoint=str(folder))
    else:
        with pytest.raises(CheckpointError, match="was not loaded"):
            run.train(resume_from_checkpoint=str(folder))
    assert not Path(TRAP).exists()
