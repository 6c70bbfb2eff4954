from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hftrain import TrainerCallback, TrainingArguments
from hftrain.errors import CallbackError, ConfigurationError
from hftrain.report.page import embedded
from tests.trainer.tasks import trainer


def pages(tmp_path: Path) -> list[dict[str, Any]]:
    return [embedded(path.read_text()) for path in sorted((tmp_path / "runs").glob("*/report.html"))]


def test_a_run_ends_with_a_page_and_says_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(tmp_path, report="html", report_to="none", max_steps=4, logging_steps=2)
    run.train()
    (document,) = pages(tmp_path)
    (shown,) = document["runs"]
    rows = [row for row in run.state.log_history if "loss" in row]
    assert shown["curves"]["loss"]["values"] == [float(f"{row['loss']:.7g}") for row in rows]
    assert shown["status"] == "finished"
    assert f"report of the run: {tmp_path}/runs/{run.run_id}/report.html" in capsys.readouterr().err


def test_a_run_that_fails_has_its_page_too(tmp_path: Path) -> None:
    class Breaks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise ValueError("enough")

    with pytest.raises(CallbackError):
        trainer(tmp_path, report="html", report_to="none", max_steps=4, callbacks=[Breaks()]).train()
    (document,) = pages(tmp_path)
    assert document["runs"][0]["status"] == "failed"
    assert "enough" in document["runs"][0]["error"]


def test_no_page_is_written_where_none_is_asked_for(tmp_path: Path) -> None:
    trainer(tmp_path, report_to="none", max_steps=1).train()
    assert not (tmp_path / "runs").exists()


def test_a_page_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class InTheWay(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            (folder,) = (tmp_path / "runs").iterdir()
            (folder / "report.html").mkdir()

    run = trainer(tmp_path, report="html", report_to="none", max_steps=2, callbacks=[InTheWay()])
    assert run.train().global_step == 2
    assert "The report could not be written" in caplog.text


def test_a_report_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"report='pdf' is not known\. .*'html'"):
        TrainingArguments("out", report="pdf")


def test_a_report_without_plotly_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hftrain.plugin_api.needs.REPORT_REQUIRES", ("no-such-script>=1",))
    with pytest.raises(
        ConfigurationError, match=r'report=\'html\' needs no-such-script.*pip install "hftrain\[report\]"'
    ):
        TrainingArguments("out", report="html")
    TrainingArguments("out")
