"""A folder of the reference is read, whoever wrote it: tensors, arrays and plain data, and nothing is called."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hftrain.checkpoint.contents import load_optimizer, load_scheduler, parameter_names, tree_of
from hftrain.checkpoint.foreign import ForeignReader, open_any
from hftrain.checkpoint.pickled import load_pickled
from hftrain.errors import CheckpointError, TornCheckpointError, UnsafeCheckpointError
from hftrain.hardware.seeding import rng_state, set_rng_state


class Hostile:
    """A pickle of it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def loaded(path: Path) -> Any:
    with path.open("rb") as file:
        return load_pickled(file, path.stat().st_size, name=str(path))


def folder(path: Path, **objects: Any) -> ForeignReader:
    """A checkpoint as the reference writes it: ``optimizer_pt=...`` becomes optimizer.pt."""
    path.mkdir(exist_ok=True)
    (path / "trainer_state.json").write_text('{"global_step": 3}')
    for name, value in objects.items():
        torch.save(value, path / ".".join(name.rsplit("_", 1)))
    reader = open_any(str(path))
    assert isinstance(reader, ForeignReader)
    return reader


def trained(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
    for _ in range(3):
        model(torch.ones(3)).sum().backward()
        optimizer.step()
        scheduler.step()
    return model, optimizer, scheduler


def test_an_optimizer_and_a_schedule_go_on_to_the_bit(tmp_path: Path) -> None:
    _, optimizer, scheduler = trained()
    reader = folder(tmp_path, optimizer_pt=optimizer.state_dict(), scheduler_pt=scheduler.state_dict())
    model, fresh, fresh_scheduler = trained(seed=1)
    load_optimizer(reader.part("optimizer"), fresh, parameter_names(model))
    load_scheduler(reader.part("scheduler"), fresh_scheduler)
    for (one, ours), theirs in zip(fresh.state.items(), optimizer.state.values(), strict=True):
        assert one.shape == ours["exp_avg"].shape
        assert all(torch.equal(ours[key], theirs[key]) for key in ("step", "exp_avg", "exp_avg_sq"))
    assert [group["lr"] for group in fresh.param_groups] == [group["lr"] for group in optimizer.param_groups]
    assert fresh_scheduler.last_epoch == 3


def test_an_optimizer_over_other_shapes_is_refused(tmp_path: Path) -> None:
    reader = folder(tmp_path, optimizer_pt=trained()[1].state_dict())
    other = nn.Linear(2, 3)
    optimizer = torch.optim.AdamW([{"params": [other.weight]}, {"params": [other.bias]}])
    with pytest.raises(CheckpointError, match=r"exp_avg of shape \(2, 3\) for parameter 0 of group 0.*\(3, 2\)"):
        load_optimizer(reader.part("optimizer"), optimizer, parameter_names(other))


def test_an_optimizer_over_other_groups_is_refused(tmp_path: Path) -> None:
    reader = folder(tmp_path, optimizer_pt=trained()[1].state_dict())
    other = nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match=r"param_groups\.1\.0"):
        load_optimizer(reader.part("optimizer"), torch.optim.AdamW(other.parameters()), parameter_names(other))


def reference_rng() -> dict[str, Any]:
    return {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}


@pytest.mark.parametrize(("file_name", "rank"), [("rng_state_pth", 0), ("rng_state_1_pth", 1)])
def test_random_states_are_put_back(tmp_path: Path, file_name: str, rank: int) -> None:
    before = rng_state()
    reader = folder(tmp_path, **{file_name: reference_rng()})
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    set_rng_state(tree_of(reader.part("rng", rank=rank)))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn
    assert not reader.has("rng", rank=2)
    set_rng_state(before)


def test_the_random_state_of_an_old_numpy_is_read(tmp_path: Path) -> None:
    reader = folder(tmp_path, rng_state_pth=reference_rng())
    path = tmp_path / "rng_state.pth"
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert len(tree_of(open_any(str(tmp_path)).part("rng", rank=0))["numpy"]["words"]) == 624
    assert reader.has("rng", rank=0)


def test_the_random_state_of_several_devices_gives_each_rank_its_own(tmp_path: Path) -> None:
    cuda = [torch.full((4,), value, dtype=torch.uint8) for value in (1, 2)]
    reader = folder(tmp_path, rng_state_1_pth={**reference_rng(), "cuda": cuda})
    assert tree_of(reader.part("rng", rank=1))["cuda"].tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("is_sharded", [False, True])
def test_a_pickled_model_is_read_whole_or_from_shards(tmp_path: Path, is_sharded: bool) -> None:
    state = OrderedDict(a=torch.arange(3), b=torch.ones(2))
    names = ["pytorch_model.bin"]
    if is_sharded:
        names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
        index = {"weight_map": dict(zip("ab", names, strict=True))}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for name, keys in zip(names, ["a", "b"] if is_sharded else ["ab"], strict=True):
        torch.save({key: state[key] for key in keys}, tmp_path / name)
    found = folder(tmp_path).model()
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"a": [0, 1, 2], "b": [1, 1]}


def test_adapters_in_folders_are_found(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    torch.save({"w": torch.ones(1)}, tmp_path / "other" / "adapter_model.bin")
    reader = folder(tmp_path)
    assert (reader.has("other/adapter_model"), reader.has("adapter_model")) == (True, False)
    assert reader.tensors("other/adapter_model")["w"].tolist() == [1.0]


def test_the_loss_scalers_state_is_read(tmp_path: Path) -> None:
    state = {
        "scale": 65536.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 3,
    }
    assert tree_of(folder(tmp_path, scaler_pt=state).part("scaler")) == state


@pytest.mark.parametrize("name", ["optimizer_pt", "scheduler_pt", "rng_state_pth", "pytorch_model_bin"])
def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(tmp_path: Path, name: str) -> None:
    trap = tmp_path / "trap"
    reader = folder(tmp_path / "checkpoint", **{name: {"state": Hostile(trap)}})
    part = {"rng_state_pth": "rng", "pytorch_model_bin": "model"}.get(name, name.removesuffix("_pt"))
    with pytest.raises(UnsafeCheckpointError, match="was not loaded"):
        reader.part(part, rank=0 if part == "rng" else None)
    assert not trap.exists()


def test_what_the_process_allowed_elsewhere_is_not_allowed_here(tmp_path: Path) -> None:
    torch.save(Path("x"), tmp_path / "file.pt")
    allowed = type(Path("x"))
    with torch.serialization.safe_globals([allowed]):
        with pytest.raises(UnsafeCheckpointError, match="was not loaded"):
            loaded(tmp_path / "file.pt")
        assert allowed in torch.serialization.get_safe_globals()


def test_the_arguments_are_never_opened(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    reader = folder(tmp_path / "checkpoint", training_args_bin=Hostile(trap))
    assert not reader.has("training_args")
    assert not trap.exists()


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", bytes(10_000_000))
    with pytest.raises(UnsafeCheckpointError, match="compressed"):
        loaded(path)


def test_parts_that_stand_in_a_tree_over_and_over_are_refused(tmp_path: Path) -> None:
    laughs: list[Any] = [1]
    for _ in range(20):
        laughs = [laughs] * 10
    with pytest.raises(UnsafeCheckpointError, match="many times that size|more often, than any state does"):
        folder(tmp_path, scheduler_pt={"last": laughs}).part("scheduler")


def test_a_list_that_holds_itself_is_refused(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UnsafeCheckpointError, match="many times that size|more often, than any state does"):
        folder(tmp_path, scheduler_pt={"last": endless}).part("scheduler")


@pytest.mark.parametrize(
    "tensor", [torch.ones(1).expand(1 << 40), torch.ones(1 << 40, device="meta"), torch.ones(2).to_sparse()]
)
def test_a_tensor_without_its_elements_is_refused(tmp_path: Path, tensor: Tensor) -> None:
    state = {"state": {0: {"row": tensor}}, "param_groups": [{"params": [0]}]}
    with pytest.raises(UnsafeCheckpointError, match="not made of its record|it names 'torch._utils _rebuild"):
        folder(tmp_path, optimizer_pt=state).part("optimizer")


def test_parts_that_parameter_groups_share_are_read(tmp_path: Path) -> None:
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(500)]
    optimizer = torch.optim.AdamW([{"params": [parameter]} for parameter in parameters])
    assert folder(tmp_path, optimizer_pt=optimizer.state_dict()).has("optimizer")
    assert folder(tmp_path).part("optimizer").document["param_groups"]


class Huge:
    """Pickled as a numpy array of any shape and type, without its elements."""

    def __init__(self, code: Any) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return np.ndarray, ((1 << 40,), self.code)


@pytest.mark.parametrize("code", ["O", "u4", np.dtype("O"), np.dtype("f8")])
def test_an_array_that_only_claims_a_size_is_never_made(tmp_path: Path, code: Any) -> None:
    state = {**reference_rng(), "numpy": ("MT19937", Huge(code), 624, 0, 0.0)}
    with pytest.raises((UnsafeCheckpointError, TornCheckpointError)):
        folder(tmp_path, rng_state_pth=state).part("rng", rank=0)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", pickle.dumps({"a": 1})])
def test_what_is_no_whole_file_of_torch_is_torn(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "optimizer.pt"
    path.write_bytes(data)
    with pytest.raises(TornCheckpointError, match=r"optimizer\.pt is not a whole file"):
        loaded(path)


def test_a_file_cut_short_is_torn(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(1000)}, buffer)
    (tmp_path / "optimizer.pt").write_bytes(buffer.getvalue()[:-100])
    with pytest.raises(TornCheckpointError, match=r"not a whole file"):
        loaded(tmp_path / "optimizer.pt")


@pytest.mark.parametrize("state", [{"groups": []}, [1], {"state": 3, "param_groups": [{"params": [0]}]}])
def test_another_thing_under_the_optimizers_name_is_torn(tmp_path: Path, state: Any) -> None:
    with pytest.raises(TornCheckpointError, match=r"optimizer\.pt is not what the reference writes"):
        folder(tmp_path, optimizer_pt=state).part("optimizer")
