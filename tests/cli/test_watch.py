from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hftrain.cli.main import main
from hftrain.plugin_api.spool import Spool

WRITER = """
import sys, time
from hftrain.plugin_api.spool import Spool
spool = Spool(sys.argv[1])
spool.append("start", step=0, data={"name": "mine", "max_steps": 20})
for step in range(1, 21):
    spool.append("log", step=step, epoch=step / 20, data={"loss": 1 / step})
    time.sleep(0.02)
    if step == 10:
        spool.append("checkpoint", step=10, data={"name": "checkpoint-10", "path": "x"})
        spool.append("warning", step=10, data={"text": "take care", "logger": "hftrain"})
spool.append("finish", step=20, data={"status": "failed" if sys.argv[2] == "failed" else "finished"})
"""
RUN = "20260101-000000-aaaaaa"


def written(folder: Path, how: str = "finished") -> subprocess.Popen[bytes]:
    """Another process that writes a run."""
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder / "runs" / RUN), how])


def watch(*words: str, **settings: Any) -> subprocess.Popen[Any]:
    return subprocess.Popen([sys.executable, "-m", "hftrain", "watch", *words], **settings)


def lines_of(*words: str) -> tuple[int, list[str]]:
    """Exit code and lines of a watch whose stdout is no terminal."""
    watching = watch(*words, "--interval", "0.05", stdout=subprocess.PIPE, text=True)
    out, _ = watching.communicate(timeout=120)
    return watching.returncode, out.splitlines()


def in_terminal(words: Sequence[str], *, until: str | None = None, rows: int = 50) -> tuple[int, str]:
    """Exit code and everything that a terminal was sent; ``until`` it shows that, then Ctrl-C is pressed."""
    terminal, its_end = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "LINES": str(rows), "TERM": "xterm-256color"}
    watching = watch(*words, "--interval", "0.05", stdin=its_end, stdout=its_end, stderr=its_end, env=environment)
    os.close(its_end)
    text, end = b"", time.monotonic() + 120
    while time.monotonic() < end and watching.poll() is None or select.select([terminal], [], [], 0)[0]:
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                text += os.read(terminal, 65536)
            except OSError:  # its end is closed
                break
        if until is not None and until.encode() in text:
            watching.send_signal(signal.SIGINT)
            until = None
    os.close(terminal)
    return watching.wait(timeout=60), text.decode()


def ended_run(folder: Path, status: str = "finished") -> Path:
    spool = Spool(str(folder / "runs" / RUN))
    spool.append("start", step=0, data={"name": "mine", "max_steps": 2})
    spool.append("log", step=2, data={"loss": 0.5, "odd": "nan"})
    spool.append("finish", step=2, data={"status": status, "error": None if status == "finished" else "ValueError: no"})
    return folder


def test_a_run_that_grows_is_followed_to_its_end(tmp_path: Path) -> None:
    with written(tmp_path):
        code, lines = lines_of(str(tmp_path))
    assert code == 0
    assert any("step 20/20" in line and "loss 0.05" in line for line in lines)
    assert {"saved checkpoint-10", "warning at step 10: take care"} <= set(lines)
    assert lines[-1] == "finished at step 20"


def test_a_run_that_begins_after_the_watch_is_waited_for(tmp_path: Path) -> None:
    watching = watch(str(tmp_path / "out"), "--interval", "0.05", stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    assert watching.stdout.readline() == f"Waiting for a run in {tmp_path / 'out'}\n"
    with written(tmp_path / "out"):
        out, _ = watching.communicate(timeout=120)
    assert (watching.returncode, out.splitlines()[-1]) == (0, "finished at step 20")


def test_a_terminal_shows_the_run_and_keeps_the_last_frame(tmp_path: Path) -> None:
    with written(tmp_path):
        code, text = in_terminal([str(tmp_path)])
    assert code == 0
    last = text[text.rindex("mine") :]
    assert "finished" in last
    assert "step 20 / 20" in last
    assert "█" in last
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back


def test_a_reader_who_has_seen_enough_ends_it_quietly(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "runs" / RUN))
    spool.append("log", step=1, data={"loss": 1.0})
    watching = watch(str(tmp_path), "--interval", "0.05", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("step 1")
    watching.stdout.close()
    spool.append("log", step=2, data={"loss": 1.0})
    assert watching.wait(timeout=120) == 0
    assert watching.stderr is not None
    assert watching.stderr.read() == ""
    watching.stderr.close()


def test_ctrl_c_leaves_cleanly(tmp_path: Path) -> None:
    Spool(str(tmp_path / "runs" / RUN)).append("start", step=0, data={"name": "mine"})
    code, text = in_terminal([str(tmp_path)], until="mine")
    assert code == 130
    assert "Traceback" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_did_not_get_to_its_end_is_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: str
) -> None:
    assert main(["watch", str(ended_run(tmp_path, status))]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"{status} at step 2: ValueError: no"


def test_once_prints_one_frame_and_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(ended_run(tmp_path)), "--once"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"mine  {RUN}  finished")
    assert "\x1b" not in out


def test_once_of_a_run_that_trains_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spool = Spool(str(tmp_path / "runs" / RUN))
    spool.append("log", step=2, data={"loss": 0.5})
    assert main(["watch", str(tmp_path), "--once", "--plain"]) == 0
    assert capsys.readouterr().out == "step 2  loss 0.5\n"


def test_json_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(ended_run(tmp_path)), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["status"], document["step"], document["max_steps"]) == ("finished", 2, 2)
    assert document["metrics"]["odd"]["last"] == "nan"


@pytest.mark.parametrize("word", ["--once", "--json"])
def test_once_where_no_run_is_says_what_to_give(tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str) -> None:
    assert main(["watch", str(tmp_path), word]) == 2
    assert "is no run, and holds none" in capsys.readouterr().err


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "x"])
def test_an_interval_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], interval: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["watch", "x", "--interval", interval])
    assert "--interval" in capsys.readouterr().err


def test_watching_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from hftrain.cli.main import main; "
        f"main(['watch', {str(ended_run(tmp_path))!r}, '--once']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
