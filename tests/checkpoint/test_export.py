"""An export holds what the reference reads: its file names, its forms, and nothing that a loader would have to run."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from torch import nn

from hftrain.checkpoint.catalog import Status, inspect_folder
from hftrain.checkpoint.contents import (
    Part,
    document_part,
    files_part,
    model_part,
    optimizer_part,
    parameter_names,
    rng_part,
    scaler_part,
    scheduler_part,
    tree_of,
    tree_part,
)
from hftrain.checkpoint.export import export_to_transformers
from hftrain.checkpoint.foreign import open_any
from hftrain.checkpoint.storage import LocalStorage
from hftrain.checkpoint.writer import write_folder
from hftrain.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigurationError,
    TornCheckpointError,
    UnsafeCheckpointError,
)
from hftrain.hardware.seeding import rng_state
from tests.checkpoint.kit import manager, parts, save

SCALER = {"scale": 1024.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 3}


def trained() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])
    for _ in range(3):
        model(torch.ones(3)).sum().backward()
        optimizer.step()
        scheduler.step()
    return model, optimizer, scheduler


def whole_parts(*more: Part) -> list[Part]:
    model, optimizer, scheduler = trained()
    return [
        model_part(model.state_dict()),
        optimizer_part(optimizer, parameter_names(model)),
        scheduler_part(scheduler),
        scaler_part(SCALER),
        rng_part(rng_state()),
        document_part("trainer_state", {"global_step": 3}),
        document_part("data", {"position": {"epoch": 0, "batches": 3, "samples": 12}}),
        document_part("run", {"run_id": "run"}),
        document_part("training_args", {"learning_rate": 0.1}),
        files_part("config", {"config.json": b"{}"}),
        *more,
    ]


def saved(folder: Path, parts_: list[Part], **settings: Any) -> str:
    return manager(folder, **settings).save(3, parts_, epoch=1.0, samples=12)


def exported(folder: Path, *more: Part) -> Path:
    export_to_transformers(saved(folder, whole_parts(*more)), str(folder / "exported"))
    return folder / "exported"


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def test_the_files_are_the_references_and_say_how_large_they_are(tmp_path: Path) -> None:
    result = export_to_transformers(saved(tmp_path, whole_parts()), str(tmp_path / "exported"))
    expected = {"config.json", "model.safetensors", "optimizer.pt", "rng_state.pth", "scaler.pt", "scheduler.pt"}
    expected |= {"trainer_state.json", "training_args.json"}
    assert set(result.files) == {file.name for file in (tmp_path / "exported").iterdir()} == expected
    assert all(size == (tmp_path / "exported" / name).stat().st_size for name, size in result.files.items())
    assert result.notes == []


def test_optimizer_schedule_and_scaler_load_into_torchs_own_objects(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    _, optimizer, scheduler = trained()
    state, expected = load(folder / "optimizer.pt"), optimizer.state_dict()
    assert state["param_groups"] == expected["param_groups"]
    for index, tensors in expected["state"].items():
        assert all(torch.equal(state["state"][index][name], value) for name, value in tensors.items())
    optimizer.load_state_dict(state)
    scheduler.load_state_dict(load(folder / "scheduler.pt"))
    assert scheduler.state_dict() == load(folder / "scheduler.pt")
    assert load(folder / "scaler.pt") == SCALER


def test_the_random_states_draw_on_where_ours_would(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    state = torch.load(folder / "rng_state.pth", weights_only=False)
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["cpu"])
    assert drawn == (random.random(), np.random.rand(), torch.rand(1).item())


def test_what_is_exported_is_read_back_here(tmp_path: Path) -> None:
    path = saved(tmp_path, whole_parts())
    export_to_transformers(path, str(tmp_path / "exported"))
    ours, theirs = open_any(path), open_any(str(tmp_path / "exported"))
    assert torch.equal(ours.model()["weight"], theirs.model()["weight"])
    assert tree_of(ours.part("scheduler")) == tree_of(theirs.part("scheduler"))
    one, other = (tree_of(reader.part("rng", rank=0)) for reader in (ours, theirs))
    assert torch.equal(one.pop("torch"), other.pop("torch"))
    assert one == other


def test_several_processes_have_a_random_state_each_with_one_for_every_device(tmp_path: Path) -> None:
    state = {**rng_state(), "cuda": torch.full((4,), 7, dtype=torch.uint8)}
    path = saved(tmp_path, [*parts(), rng_part(state)])
    # Two processes that share the folder would have written these.
    folder = tmp_path / "two"
    write_folder(str(folder), [*parts(), rng_part(state)])
    write_folder(str(folder), [rng_part(state)], rank=1)
    manifest = json.loads((Path(path) / "MANIFEST.json").read_text())
    manifest["world_size"] = 2
    manifest["files"]["rng-1.json"] = manifest["files"]["rng-0.json"]
    manifest["files"]["rng-1.safetensors"] = manifest["files"]["rng-0.safetensors"]
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    result = export_to_transformers(str(folder), str(tmp_path / "exported"))
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(result.files)
    one = torch.load(tmp_path / "exported/rng_state_1.pth", weights_only=False)
    assert [device.tolist() for device in one["cuda"]] == [[7] * 4] * 2


def test_numbers_of_numpy_become_numbers_that_the_weights_only_unpickler_takes(tmp_path: Path) -> None:
    path = saved(
        tmp_path, [*parts(), tree_part("scheduler", {"best": np.float64(2.0), "steps": (np.int64(3), {1: 2.5})})]
    )
    export_to_transformers(path, str(tmp_path / "exported"))
    assert load(tmp_path / "exported/scheduler.pt") == {"best": 2.0, "steps": (3, {1: 2.5})}


def test_extra_states_that_are_no_tensors_go_with_the_weights_into_one_file(tmp_path: Path) -> None:
    weights = {"w": torch.ones(2), "tied": torch.zeros(1), "layer._extra_state": {"amax": [1.0, 2.0]}}
    path = saved(tmp_path, [model_part({**weights, "again": weights["tied"]}), parts()[1]])
    export_to_transformers(path, str(tmp_path / "exported"))
    found = load(tmp_path / "exported/pytorch_model.bin")
    assert found["layer._extra_state"] == {"amax": [1.0, 2.0]}
    assert set(found) == {*weights, "again"}
    assert not (tmp_path / "exported/model.safetensors").exists()


def test_a_sharded_model_stays_sharded(tmp_path: Path) -> None:
    path = saved(tmp_path, parts(), max_shard_size=8)
    result = export_to_transformers(path, str(tmp_path / "exported"))
    assert {"model-00001-of-00002.safetensors", "model.safetensors.index.json"} <= set(result.files)


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ([], "no optimizer"),
        ([Part(name="grads", tensors={"w": torch.ones(1)}, per_rank=True)], "inside an accumulation window"),
        ([document_part("data", {"unfinished": {"evaluate": True}})], "inside an evaluation"),
        ([files_part("own", {"extra.pt": b"any", "a/training_args.bin": b"any"})], "a/training_args.bin, extra.pt"),
        ([rng_part({**rng_state(), "mps": torch.zeros(8, dtype=torch.uint8)})], "mps"),
    ],
    ids=["weights only", "gradients", "evaluation", "pickles", "mps"],
)
def test_what_the_reference_will_miss_is_said_and_not_copied(more: list[Part], note: str, tmp_path: Path) -> None:
    result = export_to_transformers(saved(tmp_path, [*parts(), *more]), str(tmp_path / "exported"))
    assert any(note in line for line in result.notes)
    assert not {"extra.pt", "a/training_args.bin", "grads-0.safetensors"} & set(result.files)


@pytest.mark.parametrize(
    ("position", "accumulation", "is_found"),
    [
        ((0, 3, 24), 1, True),
        ((0, 6, 24), 2, True),
        ((0, 5, 20), 2, True),  # the epoch's last window is shorter
        ((0, 7, 28), 2, True),  # saved inside a window
        ((1, 1, 4), 1, True),
        ((3, 0, 0), 1, True),
        ((0, 4, 24), 1, False),
        ((1, 2, 8), 1, False),
        ((2, 0, 0), 1, False),
        ((4, 0, 0), 1, False),
    ],
    ids=str,
)
def test_a_place_in_the_data_that_steps_do_not_lead_to_is_said(
    position: tuple[int, int, int], accumulation: int, is_found: bool, tmp_path: Path
) -> None:
    place = dict(zip(("epoch", "batches", "samples"), position, strict=True))
    data = document_part("data", {"position": place, "accumulation_steps": accumulation})
    path = manager(tmp_path).save(3, [*parts(), data], epoch=1.0, samples=12)
    notes = export_to_transformers(path, str(tmp_path / "exported")).notes
    assert any("counting steps" in note for note in notes) is not is_found


def test_an_export_goes_to_any_filesystem_and_comes_from_any(tmp_path: Path) -> None:
    path = saved(tmp_path, whole_parts())
    export_to_transformers(path, "memory://exports/one")
    assert {"optimizer.pt", "trainer_state.json"} <= {Path(name).name for name in _memory().ls("/exports/one", False)}
    assert open_any("memory://exports/one").has("optimizer")
    _memory().rm("/exports", recursive=True)


def _memory() -> Any:
    return fsspec.filesystem("memory")


def test_a_file_in_the_place_of_the_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    path = save(manager(tmp_path), 1)
    with pytest.raises(ConfigurationError, match="mine.txt is a file"):
        export_to_transformers(path, str(tmp_path / "mine.txt"))
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported/mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="exported is a file or not empty"):
        export_to_transformers(save(manager(tmp_path), 1), str(tmp_path / "exported"))
    assert [file.name for file in (tmp_path / "exported").iterdir()] == ["mine.txt"]


def test_a_changed_byte_is_found_before_anything_is_written(tmp_path: Path) -> None:
    path = Path(save(manager(tmp_path), 1))
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[:-1] + b"?")
    with pytest.raises(TornCheckpointError, match="changed after it was written"):
        export_to_transformers(str(path), str(tmp_path / "exported"))
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"state": {}, "param_groups": 3, "more": {}}, TornCheckpointError),
        ({"state": {"a": {}}, "param_groups": [], "more": {}}, TornCheckpointError),
        ([], TornCheckpointError),
        ({"state": {"$call": "print"}, "param_groups": [], "more": {}}, UnsafeCheckpointError),
    ],
    ids=str,
)
def test_an_optimizer_that_a_stranger_wrote_leaves_no_export(document: Any, error: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, [*parts(), document_part("optimizer", document)])
    with pytest.raises(error):
        export_to_transformers(path, str(tmp_path / "exported"))
    assert not (tmp_path / "exported").exists()


def test_an_export_that_is_stopped_halfway_is_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, whole_parts())
    monkeypatch.setattr(LocalStorage, "delete", lambda self, path: None)  # the process is gone: nothing is cleaned up
    monkeypatch.setattr("hftrain.checkpoint.export._rng_state", _stop)
    with pytest.raises(KeyboardInterrupt):
        export_to_transformers(path, str(tmp_path / "exported"))
    assert inspect_folder(LocalStorage(), str(tmp_path / "exported")).status is Status.TORN


def _stop(*arguments: Any) -> None:
    raise KeyboardInterrupt


def test_a_number_of_processes_that_cannot_be_costs_nothing(tmp_path: Path) -> None:
    path = Path(saved(tmp_path, [*parts(), rng_part(rng_state())]))
    manifest = json.loads((path / "MANIFEST.json").read_text())
    (path / "MANIFEST.json").write_text(json.dumps({**manifest, "world_size": 2**62}))
    assert "rng_state_0.pth" in export_to_transformers(str(path), str(tmp_path / "exported")).files


def test_what_is_no_checkpoint_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/trainer_state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="hftrain did not write it"):
        export_to_transformers(str(tmp_path / "theirs"), str(tmp_path / "exported"))
    with pytest.raises(CheckpointNotFoundError):
        export_to_transformers(str(tmp_path / "nowhere"), str(tmp_path / "exported"))
