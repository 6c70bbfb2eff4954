from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from hftrain.errors import HardwareError
from hftrain.hardware import devices
from hftrain.hardware.devices import batch_mover, resolve_accelerator, resolve_device
from hftrain.hardware.world import World

META = torch.device("meta")


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say which devices the machine offers."""

    def offer(*names: str) -> None:
        for name in ("cuda", "mps"):
            monkeypatch.setitem(devices._IS_THERE, name, lambda name=name: name in names)

    return offer


@pytest.mark.parametrize(("there", "chosen"), [((), "cpu"), (("mps",), "mps"), (("cuda", "mps"), "cuda")])
def test_auto_takes_the_best_device_there_is(offered: Any, there: tuple[str, ...], chosen: str) -> None:
    offered(*there)
    assert resolve_accelerator("auto") == chosen


def test_a_device_that_is_not_there_is_refused_with_what_is(offered: Any) -> None:
    offered("mps")
    with pytest.raises(HardwareError, match=r"accelerator='cuda' .* offers mps, cpu only.*accelerator='auto'"):
        resolve_accelerator("cuda")


def test_an_unknown_accelerator_is_refused_with_the_known_ones() -> None:
    with pytest.raises(HardwareError, match="'tpu' is not known. Set one of auto, cuda, mps, cpu"):
        resolve_accelerator("tpu")


def test_several_processes_on_mps_are_refused(offered: Any) -> None:
    offered("mps")
    with pytest.raises(HardwareError, match="2 processes were started, but MPS runs in one"):
        resolve_device("mps", World(world_size=2, local_world_size=2))


def test_more_processes_than_gpus_are_refused(offered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    offered("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    world = World(process_index=1, local_process_index=1, world_size=2, local_world_size=2)
    with pytest.raises(HardwareError, match="2 processes were started on a machine where 1 GPUs are visible"):
        resolve_device("auto", world)
    assert resolve_device("auto", World()) == torch.device("cuda", 0)


def test_idle_gpus_are_named_once_with_the_command_that_uses_them(
    offered: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    offered("cuda")
    devices._name_idle_gpus.cache_clear()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for _ in range(2):
        resolve_device("auto", World())
    assert [record.getMessage().count("torchrun --nproc-per-node 3") for record in caplog.records] == [1]


def test_a_nested_batch_moves_and_keeps_what_is_no_tensor() -> None:
    batch = {"x": torch.ones(2), "rows": [(torch.ones(1), "name")], "n": 3, "none": None}
    moved = batch_mover(META)(batch)
    assert moved["x"].device == moved["rows"][0][0].device == META
    assert (moved["rows"][0][1], moved["n"], moved["none"]) == ("name", 3, None)


def test_a_batch_that_is_in_place_comes_back_as_the_same_object() -> None:
    batch = {"x": torch.ones(2, device=META), "rows": [torch.ones(1, device=META)]}
    assert batch_mover(META)(batch) is batch


def test_without_another_device_no_batch_is_looked_through() -> None:
    batch = {"x": torch.ones(2)}
    assert batch_mover(torch.device("cpu"))(batch) is batch


def test_objects_with_a_to_method_move_themselves() -> None:
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])
    assert batch_mover(META)([packed])[0].data.device == META


def test_the_encoding_of_a_tokenizer_moves() -> None:
    encoding = transformers.BatchEncoding({"input_ids": torch.ones(2, dtype=torch.int64)})
    assert batch_mover(META)(encoding)["input_ids"].device == META
