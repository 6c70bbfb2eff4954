"""Whole scripts as people write them for transformers, run as they are and with the import line changed."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parent / "scripts"
CLASSIFY = (
    "--use_cpu --report_to none --num_train_epochs 3 --eval_strategy epoch --save_strategy epoch "
    "--load_best_model_at_end --metric_for_best_model held_out_accuracy --save_total_limit 1 --logging_steps 5 "
    "--learning_rate 3e-3 --per-device-train-batch-size 16 --warmup_ratio 0.1 --disable_tqdm true"
)
# What the clock says, and what one library writes and the other by its documentation does not.
CLOCK = re.compile(r"(runtime|_per_second|preparation_time)$")
OWN_FILES = {"training_args.bin", "training_args.json", "README.md"}
# A resumed run's mean training loss: over all its steps here, over those since the resume (divided by all) there.
INTENDED = re.compile(r"(resumed_history\[8\]\.train_loss|language_model.*\.(train_loss|training_loss)):")


def changed(source: str) -> str:
    """The script with its marked imports taken from hftrain."""
    lines = source.splitlines(keepends=True)
    marked = [index for index, line in enumerate(lines) if "the import that changes" in line]
    assert marked
    for index in marked:
        lines[index] = re.sub(r"from transformers(\.\w+)? import", "from hftrain import", lines[index])
    return "".join(lines)


def run(script: Path, folder: Path, *arguments: str) -> Any:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(script), "--output_dir", str(folder), *arguments]
    done = subprocess.run(command, env=env, cwd=folder.parent, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "result.json").read_text())


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Every place where two JSON documents differ by more than 1e-6."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        odd = [f"{where}: {sorted(ours.keys() ^ theirs.keys())} on one side"] if ours.keys() != theirs.keys() else []
        both = [key for key in ours if key in theirs and not CLOCK.search(key)]
        return odd + [text for key in both for text in differences(ours[key], theirs[key], f"{where}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list):
        odd = [f"{where}: {len(ours)} and {len(theirs)} entries"] if len(ours) != len(theirs) else []
        pairs = enumerate(zip(ours, theirs, strict=False))
        return odd + [text for index, pair in pairs for text in differences(*pair, f"{where}[{index}]")]
    if isinstance(ours, (int, float)) and isinstance(theirs, (int, float)):
        return [] if math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-6) else [f"{where}: {ours!r} and {theirs!r}"]
    return [] if ours == theirs else [f"{where}: {ours!r} and {theirs!r}"]


@pytest.mark.parametrize("name", ["classify_text", "language_model", "summarize", "own_trainer", "adapters"])
def test_a_script_gives_the_same_results_after_its_import_line_is_changed(tmp_path: Path, name: str) -> None:
    script, copy = SCRIPTS / f"{name}.py", tmp_path / f"{name}.py"
    copy.write_text(changed(script.read_text()))
    arguments = CLASSIFY.split() if name == "classify_text" else []
    results = []
    for which, version in (("theirs", script), ("ours", copy)):
        # The same folder name for both: it stands in the rows and paths that are compared.
        (tmp_path / which).mkdir()
        result = run(version, tmp_path / which / "output", *arguments)
        text = json.dumps({**result, "files": sorted(set(result.get("files", [])) - OWN_FILES)})
        results.append(json.loads(text.replace(str(tmp_path / which), "")))
    found = differences(*reversed(results), name)
    assert [text for text in found if not INTENDED.search(text)] == []
