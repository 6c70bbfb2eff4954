"""A checkpoint from a stranger: what is listed is read, nothing else is opened, nothing runs."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers

from hftrain.checkpoint.contents import document_part, model_part, rng_part, tree_of
from hftrain.checkpoint.foreign import open_any
from hftrain.checkpoint.reader import open_checkpoint, read_model, read_task
from hftrain.checkpoint.storage import LocalStorage
from hftrain.checkpoint.writer import write_folder
from hftrain.errors import CheckpointError, CheckpointNotFoundError, TornCheckpointError, UnsafeCheckpointError
from tests.checkpoint.kit import manager, parts, save

PICKLE = b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06getcwd\x94\x93\x94)R\x94."


def test_a_committed_checkpoint_gives_its_parts_back(tmp_path: Path) -> None:
    more = [document_part("task", {"class": "x"}), rng_part({"cpu": torch.arange(3)})]
    path = manager(tmp_path).save(7, [*parts(7.0), *more], epoch=0.5, samples=28)
    reader = open_checkpoint(path)
    assert reader.step == 7
    assert reader.manifest is not None
    assert (reader.manifest.epoch, reader.manifest.samples) == (0.5, 28)
    assert reader.model()["weight"].tolist() == [7.0]
    assert tree_of(reader.part("rng", rank=0))["cpu"].tolist() == [0, 1, 2]
    assert (reader.has("rng", rank=0), reader.has("rng", rank=1), reader.has("scaler")) == (True, False, False)
    assert read_task(path) == {"class": "x"}


@pytest.mark.parametrize("max_shard_size", ["5GB", 8])
def test_a_model_is_read_from_one_file_or_from_shards(max_shard_size: str | int, tmp_path: Path) -> None:
    tensors = {name: torch.randn(2, 3) for name in "abc"}
    write_folder(str(tmp_path), [model_part(tensors | {"tied": tensors["a"]})], max_shard_size=max_shard_size)
    state = read_model(str(tmp_path))
    assert state["tied"] is state["a"]
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())


def test_a_model_on_another_filesystem_is_read() -> None:
    path = f"memory://{uuid.uuid4().hex}/model"
    write_folder(path, [model_part({"w": torch.arange(3)})])
    assert read_model(path)["w"].tolist() == [0, 1, 2]


def test_a_transformers_model_reads_what_we_write_and_we_read_its(tmp_path: Path) -> None:
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=9, n_positions=8)
    model = transformers.GPT2LMHeadModel(config)
    config.save_pretrained(tmp_path / "ours")
    tied = model._tied_weights_keys
    write_folder(str(tmp_path / "ours"), [model_part(model.state_dict(), tied=tied)], max_shard_size=200)
    back, info = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    model.save_pretrained(tmp_path / "theirs", max_shard_size=200)
    theirs = read_model(str(tmp_path / "theirs"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)
        assert name in tied or torch.equal(theirs[name], tensor)


def test_files_the_manifest_does_not_list_are_not_there(tmp_path: Path) -> None:
    path = Path(save(manager(tmp_path), 1))
    (path / "optimizer.json").write_text("{}")
    reader = open_checkpoint(str(path))
    assert not reader.has("optimizer")
    with pytest.raises(CheckpointError, match=r"holds no optimizer\.json; it holds model\.safetensors"):
        reader.document("optimizer")


def test_a_reference_checkpoint_offers_its_plain_files_and_its_step(tmp_path: Path) -> None:
    path = tmp_path / "anything"
    path.mkdir()
    safetensors.torch.save_file({"w": torch.ones(2)}, path / "model.safetensors")
    (path / "trainer_state.json").write_text('{"global_step": 12}')
    (path / "training_args.bin").write_bytes(PICKLE)
    reader = open_checkpoint(str(path))
    assert (reader.manifest, reader.step) == (None, 12)
    assert reader.model()["w"].tolist() == [1, 1]


@pytest.mark.parametrize("step", ["NaN", "-1", "true", '"3"', "1e3", "null"])
def test_a_step_that_is_no_counter_is_refused(step: str, tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    with pytest.raises(TornCheckpointError, match="global_step"):
        _ = open_checkpoint(str(tmp_path)).step


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json", "task.json"])
def test_a_pickle_under_any_name_is_not_loaded(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(PICKLE)
    with pytest.raises((UnsafeCheckpointError, TornCheckpointError)):
        read_task(str(tmp_path)) if name == "task.json" else read_model(str(tmp_path))


@pytest.mark.parametrize("target", ["../secret.safetensors", "/etc/passwd", "a/../../secret.safetensors"])
def test_an_index_cannot_name_a_file_outside(target: str, tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "secret.safetensors")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": target}}))
    with pytest.raises(UnsafeCheckpointError, match="not a plain path"):
        read_model(str(tmp_path / "in"))


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "secret.safetensors")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/model.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (tmp_path / "in/sub").symlink_to(tmp_path)
    reader = open_checkpoint(str(tmp_path / "in"))
    assert reader.files == []
    with pytest.raises(CheckpointError, match="holds no model"):
        reader.model()


def test_one_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in names:
        safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / name)
    index = {"weight_map": {"w": names[0], "v": names[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsafeCheckpointError, match="in two shards"):
        read_model(str(tmp_path))


def test_an_index_that_names_a_tensor_no_shard_has_is_torn(tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys("wv", "model-00001-of-00001.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(TornCheckpointError, match="names 'v', which no file of it has"):
        read_model(str(tmp_path))


def test_a_name_that_is_also_said_to_share_anothers_memory_is_refused(tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / names[0], {"hftrain.shared": '{"v": "w"}'})
    safetensors.torch.save_file({"v": torch.ones(1)}, tmp_path / names[1])
    index = {"weight_map": dict(zip("wv", names, strict=True))}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsafeCheckpointError, match="also calls another's memory"):
        read_model(str(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_of_holes_larger_than_the_memory_is_not_read(name: str, tmp_path: Path) -> None:
    num_bytes = 1 << 43
    header = json.dumps({"w": {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}}).encode()
    with (tmp_path / name).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + num_bytes)
    with pytest.raises(CheckpointError, match=r"this machine has \d+ bytes of memory"):
        open_any(str(tmp_path)).model()


def test_a_folder_of_very_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(manager(tmp_path), 1)
    storage = LocalStorage()
    monkeypatch.setattr(storage, "list", lambda path: LocalStorage().list(path) * 100_000)
    with pytest.raises(CheckpointError, match="more than 100000 files"):
        open_checkpoint(path, storage=storage)


def test_a_folder_that_was_never_committed_is_not_loaded(tmp_path: Path) -> None:
    path = Path(save(manager(tmp_path), 1))
    (path / "MANIFEST.json").rename(path / ".incomplete")
    with pytest.raises(TornCheckpointError, match="never committed"):
        read_model(str(path))


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_a_folder_that_is_not_there_is_not_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointNotFoundError, match="Can't find a valid checkpoint at"):
        read_model(str(tmp_path / name))


def test_a_folder_of_checkpoints_says_that_one_is_to_be_named(tmp_path: Path) -> None:
    path = save(manager(tmp_path), 7)
    with pytest.raises(CheckpointNotFoundError, match=f"it holds checkpoints. Name one, such as {path}"):
        open_any(str(tmp_path))


def test_a_task_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text("[]")
    with pytest.raises(TornCheckpointError, match="no JSON object"):
        read_task(str(tmp_path))
