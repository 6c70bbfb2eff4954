"""Run a function, or a script, in several processes started by torchrun."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def launch(
    function: Callable[..., Any],
    *args: Any,
    processes: int = 2,
    timeout_s: float = 240.0,
    env: Mapping[str, str] | None = None,
) -> list[Any]:
    """Call a module-level ``function(*args)`` in every process; return what each returned, in rank order.

    Arguments and results travel as JSON. The function's file is loaded by path, so a test file may hold it.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = inspect.getsourcefile(function)
        assert source is not None
        done = launch_script(
            Path(__file__), source, function.__name__, json.dumps(args), folder,
            processes=processes, timeout_s=timeout_s, env=env,
        )  # fmt: skip
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(processes)]


def launch_script(
    script: str | Path,
    *args: str,
    processes: int = 2,
    timeout_s: float = 240.0,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``script`` with ``args`` in every process and return the exit code and what was printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    torchrun = subprocess.Popen(
        [*command, str(script), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **(env or {})},
    )
    try:
        out, err = torchrun.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        torchrun.send_signal(signal.SIGTERM)  # it ends its workers, which SIGKILL would leave behind
        out, err = torchrun.communicate(timeout=60)
        raise AssertionError(f"{script} took longer than {timeout_s:g} s\n{out}\n{err}") from None
    return subprocess.CompletedProcess(command, torchrun.returncode, out, err)


def _call(source: str, name: str, args: str, folder: str) -> None:
    spec = importlib.util.spec_from_file_location("launched", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["launched"] = module
    spec.loader.exec_module(module)
    result = getattr(module, name)(*json.loads(args))
    (Path(folder) / f"{os.environ['RANK']}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    _call(*sys.argv[1:])
