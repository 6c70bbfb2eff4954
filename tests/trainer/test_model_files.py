"""A model of transformers is saved as from_pretrained reads it; ties are kept; what does not fit is said."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from hftrain import TrainerCallback
from hftrain.checkpoint.foreign import open_any
from hftrain.checkpoint.reader import read_model
from hftrain.errors import CheckpointNotFoundError
from hftrain.trainer.model_files import load_weights
from tests.trainer.pretrained import StopAt, language_model, pretrained_trainer, tokenizer
from tests.trainer.tasks import Model, trainer, weights

CONFIGURATION = {"config.json", "generation_config.json"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def reloaded(folder: Path) -> Any:
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    return model


@pytest.mark.parametrize("max_shard_size", ["5GB", "1KB"])
def test_a_model_trained_here_loads_with_from_pretrained(tmp_path: Path, max_shard_size: str) -> None:
    ours = pretrained_trainer(tmp_path, save_steps=8, max_shard_size=max_shard_size)
    ours.train()
    back = reloaded(tmp_path / "checkpoint-8")
    assert torch.equal(weights(back), weights(ours.model))
    assert back.lm_head.weight is back.transformer.wte.weight
    assert names(tmp_path / "checkpoint-8") >= CONFIGURATION
    assert (max_shard_size == "5GB") == ("model.safetensors" in names(tmp_path / "checkpoint-8"))


def test_save_model_writes_what_from_pretrained_reads(tmp_path: Path) -> None:
    ours = pretrained_trainer(tmp_path, processing_class=tokenizer())
    ours.save_model()
    assert torch.equal(weights(reloaded(tmp_path)), weights(ours.model))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)("w3 w5")["input_ids"] == [3, 5]
    assert names(tmp_path) >= {"model.safetensors", "training_args.json", *CONFIGURATION}
    assert not list(tmp_path.glob("*.bin"))


def test_a_smaller_model_saved_over_a_sharded_one_leaves_no_shard(tmp_path: Path) -> None:
    pretrained_trainer(tmp_path, max_shard_size="1KB").save_model()
    pretrained_trainer(tmp_path).save_model()
    assert [name for name in names(tmp_path) if "model" in name] == ["model.safetensors"]


def test_the_files_of_a_model_are_in_the_manifest(tmp_path: Path) -> None:
    pretrained_trainer(tmp_path, save_steps=8, processing_class=tokenizer()).train()
    listed = json.loads((tmp_path / "checkpoint-8/MANIFEST.json").read_text())["files"]
    assert set(listed) >= {"tokenizer.json", "tokenizer_config.json", *CONFIGURATION}


def test_the_tokenizer_of_the_collator_is_saved_where_no_other_is_given(tmp_path: Path) -> None:
    ours = pretrained_trainer(tmp_path)
    ours.data_collator = transformers.DataCollatorWithPadding(tokenizer())
    ours.save_model()
    assert "tokenizer.json" in names(tmp_path)


def test_tied_tensors_are_saved_once_under_the_name_that_is_not_the_copy(tmp_path: Path) -> None:
    pretrained_trainer(tmp_path).save_model()
    saved = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert "transformer.wte.weight" in saved
    assert "lm_head.weight" not in saved


@pytest.mark.parametrize("stop", [3, 4, 7])
def test_a_resumed_model_is_bitwise_equal(tmp_path: Path, stop: int) -> None:
    whole = pretrained_trainer(tmp_path / "whole", save_strategy="no")
    whole.train()
    pretrained_trainer(tmp_path / "cut", callbacks=[StopAt(stop)]).train()
    resumed = pretrained_trainer(tmp_path / "cut", language_model(seed=5))
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert resumed.model.lm_head.weight is resumed.model.transformer.wte.weight


def test_the_best_model_is_loaded_at_the_end(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    ours = pretrained_trainer(tmp_path, learning_rate=5.0, **settings)
    ours.train()
    assert ours.state.best_global_step is not None
    assert ours.state.best_global_step < 8
    best = tmp_path / f"checkpoint-{ours.state.best_global_step}"
    assert torch.equal(weights(reloaded(best)), weights(ours.model))


def test_a_best_checkpoint_that_was_removed_is_no_reason_to_lose_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Remover(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 8:
                shutil.rmtree(state.best_model_checkpoint)

    settings: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    ours = pretrained_trainer(tmp_path, learning_rate=5.0, callbacks=[Remover()], **settings)
    assert ours.train().global_step == 8
    assert "best_model_checkpoint=" in caplog.text
    assert "the model keeps its last weights" in caplog.text
    assert torch.equal(weights(reloaded(tmp_path / "checkpoint-8")), weights(ours.model))


def test_a_model_with_a_save_pretrained_of_its_own_is_saved_by_it(tmp_path: Path) -> None:
    class Own(type(language_model())):  # type: ignore[misc]
        def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
            super().save_pretrained(save_directory, **kwargs)
            Path(save_directory, "notes.txt").write_text("mine")

    torch.manual_seed(0)
    pretrained_trainer(tmp_path, Own(language_model().config), save_steps=8).train()
    folder = tmp_path / "checkpoint-8"
    listed = json.loads((folder / "MANIFEST.json").read_text())["files"]
    assert set(listed) >= {"notes.txt", "model.safetensors", *CONFIGURATION}
    assert open_any(str(folder), verify="full").has("model")


def test_a_model_of_transformers_is_freed_without_the_garbage_collector(tmp_path: Path) -> None:
    import weakref

    ours = pretrained_trainer(tmp_path, save_steps=4)
    ours.train()
    alive = weakref.ref(ours.model)
    gc.collect()  # transformers' own modules hold cycles until here
    gc.disable()
    try:
        del ours
        assert alive() is None
    finally:
        gc.enable()


# ---- plain modules ----------------------------------------------------------------------------------


def undeclared() -> Any:
    """A model of transformers with two layers that are one, of which its class says nothing."""

    class Undeclared(transformers.PreTrainedModel):  # type: ignore[misc]
        config_class = transformers.PretrainedConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.post_init()

    return Undeclared(transformers.PretrainedConfig())


def test_tensors_that_a_pretrained_model_shares_undeclared_are_not_left_to_chance(tmp_path: Path) -> None:
    model = undeclared()
    pretrained_trainer(tmp_path, model).save_model()
    back, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(back.first.weight, model.first.weight)
    assert torch.equal(back.second.weight, model.first.weight)


def test_a_processing_class_that_cannot_be_saved_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pretrained_trainer(tmp_path, processing_class=str.split).save_model()
    assert "method_descriptor has no save_pretrained" in caplog.text


class Tied(nn.Module):
    """Two layers that are one, and a buffer that is a view of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.out = nn.Linear(4, 1)
        self.register_buffer("row", self.first.weight.detach()[0])

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"loss": functional.mse_loss(self.out(self.second(self.first(x))).squeeze(1), y)}


def test_tied_tensors_of_a_plain_module_are_saved_once_and_come_back_tied(tmp_path: Path) -> None:
    trainer(tmp_path, Tied, save_strategy="steps", save_steps=8).train()
    saved = safetensors.torch.load_file(tmp_path / "checkpoint-8/model.safetensors")
    assert ("first.weight" in saved, "second.weight" in saved) == (True, False)
    state = read_model(str(tmp_path / "checkpoint-8"))
    assert state["second.weight"] is state["first.weight"]


def test_a_tied_module_resumes_bitwise(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}
    whole = trainer(tmp_path / "whole", Tied)
    whole.train()
    trainer(tmp_path / "cut", Tied, callbacks=[StopAt(5)], **settings).train()
    resumed = trainer(tmp_path / "cut", Tied, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert resumed.model.second.weight is resumed.model.first.weight


# ---- loading ----------------------------------------------------------------------------------------


def test_missing_and_unexpected_weights_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer(tmp_path, Model).save_model()
    other = Model()
    other.net, other.more = nn.Identity(), nn.Linear(1, 1)  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING, "hftrain"):
        trainer(tmp_path, other)._load_from_checkpoint(str(tmp_path))
    assert "left as they were: more.weight, more.bias" in caplog.text
    assert "not in the model: net.bias, net.weight" in caplog.text


def test_a_tied_name_that_came_with_another_is_not_missing(tmp_path: Path) -> None:
    language_model(seed=1).save_pretrained(tmp_path)
    model = language_model()
    result = load_weights(model, open_any(str(tmp_path)))
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert torch.equal(weights(model), weights(language_model(seed=1)))


def test_weights_of_another_shape_are_an_error(tmp_path: Path) -> None:
    trainer(tmp_path, Model).save_model()
    other = Model()
    other.net = nn.Linear(5, 1)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_weights(other, open_any(str(tmp_path)))


def test_a_folder_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointNotFoundError, match=r"Can't find a valid checkpoint at .*no weights.*config\.json"):
        load_weights(Model(), open_any(str(tmp_path)))


def sequence_model() -> Any:
    config = transformers.T5Config(
        vocab_size=11, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def test_saving_a_plain_module_imports_no_more_of_transformers(tmp_path: Path) -> None:
    script = (
        "import sys, transformers\n"
        "from tests.trainer.tasks import trainer\n"
        "trainer(sys.argv[1]).save_model()\n"
        "sys.exit('transformers.modeling_utils' in sys.modules)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=root, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def untied_model() -> Any:
    config = language_model().config
    config.tie_word_embeddings = False
    return type(language_model())(config)


def classifier() -> Any:
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    return transformers.BertForSequenceClassification(config)


@pytest.mark.parametrize("make", [sequence_model, untied_model, classifier])
def test_the_names_of_the_file_are_those_that_the_model_itself_would_write(tmp_path: Path, make: Any) -> None:
    model = make()
    pretrained_trainer(tmp_path / "ours", model).save_model()
    model.save_pretrained(tmp_path / "theirs")
    mine, reference = (
        safetensors.torch.load_file(tmp_path / library / "model.safetensors") for library in ("ours", "theirs")
    )
    assert mine.keys() == reference.keys()
    assert names(tmp_path / "theirs") == names(tmp_path / "ours") - {"training_args.json"}
    _, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
