from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import trainer_pt_utils as theirs

from hftrain import Trainer, TrainerCallback
from hftrain.trainer.report_methods import ReportMethods
from tests.trainer.tasks import trainer

METRICS: dict[str, Any] = {
    "epoch": 2.0,
    "train_loss": 0.123456,
    "train_runtime": 3725.987,
    "train_samples_per_second": 12.3456789,
    "total_flos": 5.0 * 2**30,
    "init_mem_cpu_alloc_delta": 3 * 2**20 + 1,
    "train_mem_cpu_alloc_delta": -1,
    "train_samples": 64,
    "note": "as it is",
}


def main(folder: Path | str = "unused") -> Any:
    """What the reference's functions take as the Trainer."""
    ours = SimpleNamespace(args=SimpleNamespace(output_dir=str(folder)), is_world_process_zero=lambda: True)
    ours.metrics_format = lambda metrics: theirs.metrics_format(ours, metrics)
    return ours


def test_metrics_are_formatted_as_the_reference_formats_them(tmp_path: Path) -> None:
    assert trainer(tmp_path).metrics_format(METRICS) == theirs.metrics_format(main(), METRICS)
    assert METRICS["train_loss"] == 0.123456


@pytest.mark.parametrize("split", ["train", "all"])
def test_the_table_is_the_references(tmp_path: Path, split: str, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path).log_metrics(split, METRICS)
    ours = capsys.readouterr().out
    theirs.log_metrics(main(), split, METRICS)
    assert ours == capsys.readouterr().out
    assert f"***** {split} metrics *****" in ours


def test_an_override_of_metrics_format_changes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Loud(Trainer):
        def metrics_format(self, metrics: dict[str, Any]) -> dict[str, Any]:
            return {name.upper(): value for name, value in super().metrics_format(metrics).items()}

    ours = trainer(tmp_path)
    ours.__class__ = Loud
    ours.log_metrics("eval", {"eval_loss": 1.0})
    assert "  EVAL_LOSS = 1.0" in capsys.readouterr().out


@pytest.mark.parametrize("calls", [[("train", True), ("eval", True)], [("train", False)], [("all", True)]])
def test_result_files_are_the_references(tmp_path: Path, calls: list[tuple[str, bool]]) -> None:
    ours, folder = trainer(tmp_path / "ours"), tmp_path / "theirs"
    folder.mkdir()
    for number, (split, combined) in enumerate(calls):
        metrics = {f"{split}_loss": float(number), "epoch": 1.0}
        ours.save_metrics(split, metrics, combined=combined)
        theirs.save_metrics(main(folder), split, metrics, combined=combined)
    written = {path.name: path.read_text() for path in (tmp_path / "ours").iterdir()}
    assert written == {path.name: path.read_text() for path in folder.iterdir()}


def test_numbers_of_numpy_are_saved_as_numbers(tmp_path: Path) -> None:
    trainer(tmp_path).save_metrics("eval", {"eval_f1": np.float32(0.5)})
    assert json.loads((tmp_path / "eval_results.json").read_text()) == {"eval_f1": 0.5}


def test_something_that_is_no_number_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="is no JSON: save plain numbers"):
        trainer(tmp_path).save_metrics("eval", {"eval_f1": object()})


def test_another_process_prints_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = trainer(tmp_path)
    ours.state.is_world_process_zero = False
    ours.log_metrics("train", METRICS)
    ours.save_metrics("train", METRICS)
    ours.save_state()
    assert (capsys.readouterr().out, list(tmp_path.iterdir())) == ("", [])


def test_the_state_is_written_where_the_run_is(tmp_path: Path) -> None:
    ours = trainer(tmp_path / "new")
    ours.state.global_step = 7
    ours.save_state()
    assert json.loads((tmp_path / "new" / "trainer_state.json").read_text())["global_step"] == 7


@pytest.mark.parametrize("given", ["logs", None])
def test_a_callback_writes_into_the_log_folder(tmp_path: Path, given: str | None) -> None:
    class Write(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = Path(args.logging_dir)
            folder.mkdir(parents=True)
            (folder / "rows.json").write_text(json.dumps(state.log_history))

    where = None if given is None else str(tmp_path / given)
    trainer(tmp_path, max_steps=1, logging_dir=where, callbacks=[Write()]).train()
    (written,) = tmp_path.rglob("rows.json")
    assert written.parent.parent == (tmp_path if given else tmp_path / "runs")


def test_a_row_of_training_tells_the_tokens_per_second(tmp_path: Path) -> None:
    ours = trainer(tmp_path)
    ours.args.include_num_input_tokens_seen, ours.state.num_input_tokens_seen = True, 100
    ReportMethods.log(ours, {"loss": 1.0}, start_time=0.0)
    ReportMethods.log(ours, {"eval_loss": 1.0})
    first, second = ours.state.log_history
    assert {"num_input_tokens_seen", "train_tokens_per_second", "train_runtime"} <= first.keys()
    assert second.keys() - {"epoch"} == {"eval_loss", "num_input_tokens_seen", "step"}
