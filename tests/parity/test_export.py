"""A checkpoint of ours, exported, is resumed by the reference, which goes on as we go on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import peft
import pytest

from hftrain.checkpoint.export import export_to_transformers
from tests.distributed.launch import launch
from tests.parity.harness import Cell, build, differences, ours, run, theirs
from tests.parity.models import gpt2, points, sentences
from tests.parity.test_foreign_resume import CELLS, in_two_processes

# The reference's own warnings are not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")


def exported(cell: Cell, step: int, folder: Path, **changes: Any) -> tuple[Path, Path]:
    """Train the cell here; return (our checkpoint of a step, its export)."""
    build(ours(), cell, folder, [], [], save_strategy="steps", save_steps=step, **changes).train()
    kept = Path(shutil.copytree(folder / f"hftrain/checkpoint-{step}", folder / "kept"))
    target = folder / f"checkpoint-{step}"
    assert export_to_transformers(str(kept), str(target)).notes == []
    return kept, target


@pytest.mark.parametrize("name", CELLS)
def test_the_reference_goes_on_as_we_do(name: str, tmp_path: Path) -> None:
    cell, step = CELLS[name]
    changes = {} if "max_steps" in cell.args else {"num_train_epochs": 4}
    kept, target = exported(cell, step, tmp_path, **changes)
    mine = run(ours(), cell, tmp_path, resume=str(kept), **changes)
    reference = run(theirs(), cell, tmp_path, resume=str(target), **changes)
    found = differences(cell, mine, reference)
    del found["train_loss"]  # the reference divides the losses since the resume by all steps
    assert {kind: value for kind, value in found.items() if value > cell.tolerance} == {}
    assert mine.state["global_step"] == reference.state["global_step"]
    assert [row["step"] for row in mine.rows] == [row["step"] for row in reference.rows]
    assert len(mine.losses) >= 10


def test_there_and_back_again_ends_where_the_uninterrupted_run_does(tmp_path: Path) -> None:
    cell = Cell(model=gpt2, data=sentences)
    whole = run(ours(), cell, tmp_path, num_train_epochs=4)
    _, target = exported(cell, 11, tmp_path, num_train_epochs=4)
    save = {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 11}
    run(theirs(), cell, tmp_path, resume=str(target), **save)
    back = run(ours(), cell, tmp_path, resume=str(tmp_path / "transformers/checkpoint-22"), num_train_epochs=4)
    assert len(back.losses) == len(whole.losses) - 22
    assert float((back.losses - whole.losses[22:]).abs().max()) <= cell.tolerance
    assert float((back.weights - whole.weights).abs().max()) <= cell.tolerance


def test_from_pretrained_reads_an_export(tmp_path: Path) -> None:
    from transformers import GPT2LMHeadModel

    _, target = exported(Cell(model=gpt2, data=sentences), 11, tmp_path, num_train_epochs=2)
    model, notes = GPT2LMHeadModel.from_pretrained(target, output_loading_info=True)
    assert notes["missing_keys"] == notes["unexpected_keys"] == []
    assert model.lm_head.weight is model.transformer.wte.weight


def test_shards_are_resumed_there(tmp_path: Path) -> None:
    cell = CELLS["a classifier"][0]
    kept, target = exported(cell, 11, tmp_path, num_train_epochs=2, max_shard_size="2kB")
    assert (target / "model.safetensors.index.json").exists()
    mine = run(ours(), cell, tmp_path, resume=str(kept), num_train_epochs=2)
    reference = run(theirs(), cell, tmp_path, resume=str(target), num_train_epochs=2)
    assert differences(cell, mine, reference)["weights"] <= cell.tolerance


def lora() -> Any:
    config = peft.LoraConfig(r=2, lora_dropout=0.1, target_modules=["c_attn"], fan_in_fan_out=True)
    return peft.get_peft_model(gpt2(), config)


def test_adapters_are_resumed_there(tmp_path: Path) -> None:
    cell = Cell(model=lora, data=sentences, args={"label_names": ["labels"]})
    kept, target = exported(cell, 11, tmp_path, num_train_epochs=3)
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {file.name for file in target.iterdir()}
    mine = run(ours(), cell, tmp_path, resume=str(kept), num_train_epochs=3)
    reference = run(theirs(), cell, tmp_path, resume=str(target), num_train_epochs=3)
    found = differences(cell, mine, reference)
    assert max(found["loss"], found["weights"]) <= cell.tolerance


def test_the_best_and_the_states_of_callbacks_are_taken_over(tmp_path: Path) -> None:
    cell = Cell(
        eval_data=points,
        callbacks=lambda library: [library.EarlyStoppingCallback(early_stopping_patience=1)],
        args={
            "eval_strategy": "steps",
            "eval_steps": 11,
            "learning_rate": 0.2,
            "lr_scheduler_type": "constant",
            "save_strategy": "steps",
            "save_steps": 11,
            "load_best_model_at_end": True,
            "restore_callback_states_from_checkpoint": True,
        },
    )
    _, target = exported(cell, 11, tmp_path)
    mine = run(ours(), cell, tmp_path, resume=str(tmp_path / "kept"))
    reference = run(theirs(), cell, tmp_path, resume=str(target))
    assert mine.state["global_step"] == reference.state["global_step"] < 104
    assert mine.state["best_global_step"] == reference.state["best_global_step"]
    assert float((mine.weights - reference.weights).abs().max()) <= cell.tolerance


@pytest.mark.slow
def test_two_processes_go_on_from_an_export_as_if_uninterrupted(tmp_path: Path) -> None:
    # Here: the reference cannot resume two processes on the CPU.
    whole = launch(in_two_processes, "hftrain", str(tmp_path), None)
    export_to_transformers(str(tmp_path / "hftrain/checkpoint-5"), str(tmp_path / "checkpoint-5"))
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {file.name for file in (tmp_path / "checkpoint-5").iterdir()}
    resumed = launch(in_two_processes, "hftrain", str(tmp_path), str(tmp_path / "checkpoint-5"))
    for (losses, weights), (expected, expected_weights) in zip(resumed, whole, strict=True):
        assert losses == pytest.approx(expected[5:], abs=Cell().tolerance)
        assert weights == pytest.approx(expected_weights, abs=Cell().tolerance)
