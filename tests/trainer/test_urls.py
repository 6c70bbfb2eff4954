"""A run whose output_dir is a URL does what a run on a disk does."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch

from hftrain import Trainer, TrainerCallback, get_last_checkpoint
from hftrain.checkpoint.catalog import Status, inspect_folder
from hftrain.checkpoint.foreign import open_any
from hftrain.checkpoint.layout import INCOMPLETE, MANIFEST
from hftrain.checkpoint.storage import storage_for, walk
from hftrain.cli.main import main
from hftrain.errors import ConfigurationError
from tests.checkpoint import failing, s3
from tests.trainer.pretrained import StopAt
from tests.trainer.tasks import Fit, Points, arguments, trainer, weights

SAVING: dict[str, Any] = {
    "save_strategy": "steps",
    "save_steps": 4,
    "num_train_epochs": 1,
    "lr_scheduler_type": "cosine",
}


@pytest.fixture(params=["memory", "failing", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An output_dir that is not there yet; ``failing`` does not fail here, and like S3 it has no folders."""
    assert failing.FailingFileSystem.faults.num_faults == 0
    base = s3.new_bucket() if request.param == "s3" else f"{request.param}://{tmp_path}/{uuid.uuid4().hex}"
    return f"{base}/run"


def names(folder: str) -> list[str]:
    return [entry.name for entry in storage_for(folder).list(folder)]


def read_json(path: str) -> Any:
    with storage_for(path).read(path) as file:
        return json.loads(file.read())


class StartedAt(TrainerCallback):
    """Notes the step that training began after."""

    step: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step = state.global_step


@pytest.mark.parametrize(
    ("resume", "save_async"), [(True, True), ("auto", False), ("checkpoint-4", None), ("the path", True)]
)
def test_a_run_resumes_bitwise(output: str, tmp_path: Path, resume: Any, save_async: bool | None) -> None:
    whole = trainer(tmp_path / "whole", **{**SAVING, "save_strategy": "no"})
    whole.train()
    trainer(output, callbacks=[StopAt(4)], save_async=save_async, **SAVING).train()
    started = StartedAt()
    second = trainer(output, callbacks=[started], save_async=save_async, **SAVING)
    second.train(resume_from_checkpoint=f"{output}/checkpoint-4" if resume == "the path" else resume)
    assert started.step == 4
    assert torch.equal(weights(second.model), weights(whole.model))
    assert {"checkpoint-4", "checkpoint-8"} <= set(names(output))


def test_auto_starts_afresh_where_there_is_nothing(output: str) -> None:
    first = trainer(output, **SAVING)
    first.train(resume_from_checkpoint="auto")
    assert first.state.global_step == 8


def test_retention_keeps_the_newest_and_the_best_and_the_best_is_loaded(output: str) -> None:
    values = iter([0.1, 0.9, 0.2, 0.3])
    ours = Trainer(
        model=Fit(),
        args=arguments(
            output,
            **{**SAVING, "save_steps": 2, "eval_steps": 2, "save_total_limit": 2, "eval_strategy": "steps"},
            load_best_model_at_end=True,
            metric_for_best_model="score",
            greater_is_better=True,
        ),
        train_dataset=Points(),
        eval_dataset=Points(8, seed=1),
        compute_metrics=lambda found: {"score": next(values)},
    )
    ours.train()
    assert ours.state.best_model_checkpoint == f"{output}/checkpoint-4"
    assert [name for name in names(output) if "checkpoint" in name] == ["checkpoint-4", "checkpoint-8"]
    best = Fit()
    best.load_state_dict(open_any(f"{output}/checkpoint-4").model())
    assert torch.equal(weights(ours.model), weights(best))


def test_what_is_torn_or_changed_is_passed_over(output: str, caplog: pytest.LogCaptureFixture) -> None:
    trainer(output, **{**SAVING, "save_steps": 2}).train()
    storage = storage_for(output)
    storage.delete(f"{output}/checkpoint-8/{MANIFEST}")
    storage.write(f"{output}/checkpoint-8/{INCOMPLETE}", [b"{}"])
    weight_file = f"{output}/checkpoint-6/model.safetensors"
    with storage.read(weight_file) as file:
        data = bytearray(file.read())
    data[-1] ^= 1
    storage.write(weight_file, [data])
    storage.write(f"{output}/checkpoint-4/optimizer.json", [b"{"])
    started = StartedAt()
    trainer(output, callbacks=[started], **SAVING).train(resume_from_checkpoint=True)
    assert started.step == 2
    assert "checkpoint-6 is passed over" in caplog.text
    assert get_last_checkpoint(output) == f"{output}/checkpoint-8"


def test_model_state_and_metrics_are_written(output: str) -> None:
    ours = trainer(output, **SAVING)
    result = ours.train()
    ours.save_model()
    ours.save_state()
    ours.save_metrics("train", result.metrics)
    ours.save_metrics("eval", {"eval_loss": 1.5})
    assert torch.equal(weights(Fit.from_checkpoint(output)), weights(ours.model))
    assert read_json(f"{output}/trainer_state.json")["global_step"] == 8
    assert read_json(f"{output}/all_results.json") == {**result.metrics, "eval_loss": 1.5}
    assert read_json(f"{output}/eval_results.json") == {"eval_loss": 1.5}
    ours.save_model(f"{output}/export/final")
    assert torch.equal(weights(Fit.from_checkpoint(f"{output}/export/final")), weights(ours.model))


def test_the_command_reads_it(output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(output, **SAVING).train()
    one, two = f"{output}/checkpoint-4", f"{output}/checkpoint-8"
    assert [main(["checkpoint", *words]) for words in (["list", output], ["verify", output], ["diff", one, two])] == [
        0,
        0,
        0,
    ]
    assert main(["checkpoint", "export", two, "--to", "transformers", "-o", str(tmp_path / "export")]) == 0
    assert main(["checkpoint", "export", two, "--to", "transformers", "-o", f"{output}-export"]) == 0
    assert main(["checkpoint", "protect", one]) == 0
    assert inspect_folder(storage_for(one), one).is_protected
    storage_for(two).write(f"{two}/scheduler.json", [b"{}"])
    assert main(["checkpoint", "verify", two]) == 1
    assert "scheduler.json" in capsys.readouterr().out


def test_all_that_was_saved_checks(output: str) -> None:
    trainer(output, **{**SAVING, "save_steps": 3}).train()
    for name in ("checkpoint-3", "checkpoint-6", "checkpoint-8"):
        folder = inspect_folder(storage_for(output), f"{output}/{name}")
        assert folder.status is Status.COMMITTED
        assert open_any(folder.path, verify="full").step == folder.step
        assert INCOMPLETE not in folder.files


def test_a_saved_run_leaves_nothing_else_behind(output: str) -> None:
    trainer(output, **SAVING).train()
    found = {path.partition("/")[0] for path, _ in walk(storage_for(output), output)}
    assert {name for name in found if not name.startswith("checkpoint-")} <= {"runs"}


def test_a_missing_driver_says_what_to_install(tmp_path: Path) -> None:
    for url, package in (("gs://bucket/run", "gcsfs"), ("az://bucket/run", "adlfs")):
        with pytest.raises(ConfigurationError, match=f"pip install {package}"):
            trainer(url, **SAVING).train()
    with pytest.raises(ConfigurationError, match="Protocol not known: nosuch"):
        get_last_checkpoint("nosuch://bucket/run")
