"""A model with adapters: they alone are saved, resumed and loaded as the best."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
from torch import Tensor

from hftrain.checkpoint.foreign import open_any
from hftrain.errors import CheckpointError, CheckpointNotFoundError
from hftrain.trainer.model_files import load_weights
from tests.trainer.pretrained import StopAt, language_model, pretrained_trainer, tokenizer
from tests.trainer.tasks import weights

ADAPTER = {"adapter_model.safetensors", "adapter_config.json"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model: peft looks up the configuration of the one that adapters are for."""
    folder = tmp_path_factory.mktemp("base")
    language_model().save_pretrained(folder)
    return folder


def lora(base: Path, seed: int = 0, name: str = "default") -> Any:
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=2, lora_dropout=0.1, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    model = type(language_model()).from_pretrained(base)
    return peft.get_peft_model(model, config, adapter_name=name)


def adapters(model: Any) -> Tensor:
    return torch.cat([tensor.flatten() for name, tensor in model.named_parameters() if "lora" in name])


def test_a_checkpoint_holds_the_adapters_alone(tmp_path: Path, base: Path) -> None:
    pretrained_trainer(tmp_path, lora(base), save_steps=8, processing_class=tokenizer()).train()
    folder = tmp_path / "checkpoint-8"
    listed = set(json.loads((folder / "MANIFEST.json").read_text())["files"])
    assert listed >= {*ADAPTER, "tokenizer.json", "optimizer.safetensors"}
    assert "model.safetensors" not in listed
    assert all("lora" in name for name in safetensors.torch.load_file(folder / "adapter_model.safetensors"))


def test_adapters_trained_here_load_with_peft(tmp_path: Path, base: Path) -> None:
    ours = pretrained_trainer(tmp_path, lora(base), save_steps=8)
    ours.train()
    back = peft.PeftModel.from_pretrained(type(language_model()).from_pretrained(base), tmp_path / "checkpoint-8")
    assert torch.equal(adapters(back), adapters(ours.model))


@pytest.mark.parametrize("name", ["default", "other"])
def test_resumed_adapters_are_bitwise_equal(tmp_path: Path, base: Path, name: str) -> None:
    whole = pretrained_trainer(tmp_path / "whole", lora(base, name=name), save_strategy="no")
    whole.train()
    pretrained_trainer(tmp_path / "cut", lora(base, name=name), callbacks=[StopAt(3)]).train()
    resumed = pretrained_trainer(tmp_path / "cut", lora(base, seed=5, name=name))
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(adapters(resumed.model), adapters(whole.model))
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_several_adapters_resume_each_from_its_folder(tmp_path: Path, base: Path) -> None:
    def two() -> Any:
        model = lora(base)
        model.add_adapter("other", model.peft_config["default"])
        return model

    ours = two()
    for parameter in ours.parameters():
        parameter.data += 1
    pretrained_trainer(tmp_path, ours).save_model()
    fresh = two()
    result = load_weights(fresh, open_any(str(tmp_path)))
    assert torch.equal(adapters(fresh), adapters(ours))
    assert (result.missing_keys, result.unexpected_keys) == ([], [])


def test_the_best_adapters_are_loaded_at_the_end(tmp_path: Path, base: Path) -> None:
    settings: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    ours = pretrained_trainer(tmp_path, lora(base), learning_rate=50.0, **settings)
    ours.train()
    best = ours.state.best_global_step
    assert best is not None
    assert best < 8
    back = peft.PeftModel.from_pretrained(type(language_model()).from_pretrained(base), tmp_path / f"checkpoint-{best}")
    assert torch.equal(adapters(back), adapters(ours.model))


def test_adapters_added_to_a_model_of_transformers_are_saved_alone_and_resumed(tmp_path: Path, base: Path) -> None:
    def adapted(seed: int) -> Any:
        torch.manual_seed(seed)
        model = type(language_model()).from_pretrained(base)
        model.add_adapter(peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, lora_dropout=0.1))
        return model

    whole = pretrained_trainer(tmp_path / "whole", adapted(0), save_strategy="no")
    whole.train()
    pretrained_trainer(tmp_path / "cut", adapted(0), callbacks=[StopAt(3)]).train()
    assert not (tmp_path / "cut/checkpoint-3/model.safetensors").exists()
    resumed = pretrained_trainer(tmp_path / "cut", adapted(5))
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_a_mixed_model_which_cannot_save_its_adapters_alone_is_saved_whole(tmp_path: Path, base: Path) -> None:
    def mixed(seed: int) -> Any:
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
        return peft.get_peft_model(type(language_model()).from_pretrained(base), config, mixed=True)

    whole = pretrained_trainer(tmp_path / "whole", mixed(0), save_strategy="no")
    whole.train()
    pretrained_trainer(tmp_path / "cut", mixed(0), callbacks=[StopAt(3)]).train()
    resumed = pretrained_trainer(tmp_path / "cut", mixed(5))
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_a_checkpoint_of_adapters_is_none_of_a_whole_model(tmp_path: Path, base: Path) -> None:
    pretrained_trainer(tmp_path, lora(base), save_steps=8).train()
    with pytest.raises(CheckpointNotFoundError, match=r"no weights of a GPT2LMHeadModel.*adapter_model\.safetensors"):
        pretrained_trainer(tmp_path).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_a_whole_model_is_none_of_adapters(tmp_path: Path, base: Path) -> None:
    pretrained_trainer(tmp_path, save_steps=8).train()
    with pytest.raises(CheckpointError, match=r"no weights of the adapters default"):
        pretrained_trainer(tmp_path, lora(base)).train(resume_from_checkpoint=True)


def test_adapters_of_another_rank_are_an_error(tmp_path: Path, base: Path) -> None:
    pretrained_trainer(tmp_path, lora(base)).save_model()
    config = peft.LoraConfig(r=3, target_modules=["c_attn"], fan_in_fan_out=True)
    other = peft.get_peft_model(type(language_model()).from_pretrained(base), config)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_weights(other, open_any(str(tmp_path)))


def test_a_run_of_the_reference_with_adapters_goes_on(tmp_path: Path, base: Path) -> None:
    import transformers

    settings = {"per_device_train_batch_size": 8, "save_steps": 2, "max_steps": 4, "learning_rate": 0.01}
    args = transformers.TrainingArguments(
        str(tmp_path / "theirs"), report_to=[], use_cpu=True, disable_tqdm=True, **settings
    )
    data = pretrained_trainer(tmp_path / "unused").train_dataset
    theirs = transformers.Trainer(model=lora(base), args=args, train_dataset=data)
    theirs.train()
    resumed = pretrained_trainer(tmp_path / "ours", lora(base, seed=5), max_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "theirs/checkpoint-2"))
    assert torch.allclose(adapters(resumed.model), adapters(theirs.model), atol=1e-6)


@pytest.mark.parametrize("has_adapters", [False, True])
def test_a_run_on_another_filesystem_is_saved_and_resumed(base: Path, has_adapters: bool) -> None:
    def make(seed: int) -> Any:
        return lora(base, seed=seed) if has_adapters else language_model(seed=seed)

    output = f"memory://{uuid.uuid4().hex}/run"
    first = pretrained_trainer(output, make(0), callbacks=[StopAt(3)], processing_class=tokenizer())
    first.train()
    expected = weights(first.model)
    reader = open_any(f"{output}/checkpoint-3", verify="full")
    assert reader.has_file("adapter_model.safetensors" if has_adapters else "model.safetensors")
    assert reader.has_file("tokenizer.json")
    resumed = pretrained_trainer(output, make(5), max_steps=3)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed.model), expected)
