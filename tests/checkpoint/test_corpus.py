"""The corpus, each file under its name in a whole checkpoint: refused with a reason, nothing run, little allocated."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from hftrain.checkpoint.catalog import scan
from hftrain.checkpoint.contents import load_optimizer, load_scheduler, parameter_names, rng_of, scaler_state
from hftrain.checkpoint.foreign import open_any
from hftrain.checkpoint.reader import CheckpointReader
from hftrain.checkpoint.resume import get_last_checkpoint
from hftrain.checkpoint.storage import LocalStorage
from hftrain.errors import CheckpointError
from hftrain.hardware.seeding import rng_state
from tests.checkpoint.corpus.make import FOLDER, INDEX, MANIFEST, NEVER_OPENED, PICKLED_FILES, TRAP, corpus
from tests.checkpoint.hostile import exchange, whole_checkpoint

MAX_GROWTH_BYTES = 256 << 20


def live() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)


def _load_optimizer(reader: CheckpointReader) -> None:
    model, optimizer, _ = live()
    load_optimizer(reader.part("optimizer"), optimizer, parameter_names(model))


def _load_model(reader: CheckpointReader) -> None:
    live()[0].load_state_dict(reader.model(), strict=False)


READS: dict[str, Callable[[CheckpointReader], Any]] = {
    "model": _load_model,
    "optimizer": _load_optimizer,
    "scheduler": lambda reader: load_scheduler(reader.part("scheduler"), live()[2]),
    "scaler": lambda reader: scaler_state(reader.part("scaler")),
    "rng": lambda reader: rng_of(reader.part("rng", rank=0)),
    **{name: lambda reader, name=name: reader.fields(name) for name in ("trainer_state", "data", "run", "task")},  # type: ignore[misc]
}


def read_of(file: str) -> Callable[[CheckpointReader], Any]:
    base = "model" if file == "pytorch_model.bin" else file.partition(".")[0]
    return READS.get({"rng_state": "rng", "rng-0": "rng"}.get(base, base), lambda reader: reader.step)


def reference_checkpoint(output_dir: Path) -> Path:
    """A folder as the reference writes it: pickles, and no manifest."""
    folder = output_dir / "checkpoint-3"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 3}))
    safetensors.torch.save_file({"w": torch.ones(2)}, folder / "model-00001-of-00002.safetensors")
    return folder


def put(file: str, data: bytes, output_dir: Path, whole: Path) -> Path:
    """A checkpoint with the file in it."""
    if file in (*PICKLED_FILES, INDEX, NEVER_OPENED):
        folder = reference_checkpoint(output_dir)
        (folder / file).write_bytes(data)
        return folder
    folder = output_dir / "checkpoint-3"
    shutil.copytree(whole, folder)
    (folder / file).write_bytes(data) if file == MANIFEST else exchange(folder, file, data)
    return folder


def reason_against(folder: Path, file: str) -> str:
    """Why what needs the file cannot be read; nothing if it was."""
    try:
        read_of(file)(open_any(str(folder)))
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_checkpoint(tmp_path_factory.mktemp("whole"))


def test_the_corpus_is_what_its_script_makes() -> None:
    on_disk = {f"{file.parent.name}/{file.name}": file.read_bytes() for file in FOLDER.glob("*/*")}
    made = {f"{file}/{case}": data for file, cases in corpus().items() for case, data in cases.items()}
    assert on_disk.keys() == made.keys()
    # Archives hold the time when they were made, and compression differs between versions.
    assert [key for key, data in made.items() if not data.startswith(b"PK") and on_disk[key] != data] == []


@pytest.mark.parametrize("file", sorted(set(corpus()) - {NEVER_OPENED}))
def test_what_a_stranger_puts_under_a_name_is_refused_with_a_reason(
    file: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for case in sorted((FOLDER / file).iterdir()):
        folder = put(file, case.read_bytes(), tmp_path / case.name, whole)
        scan(LocalStorage(), str(folder.parent))
        get_last_checkpoint(folder.parent)
        reason = reason_against(folder, file)
        assert 20 < len(reason) < 3000, f"{case}: {reason or 'was read'}"
        assert not Path(TRAP).exists(), case


def test_the_arguments_of_the_reference_are_never_opened(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for case in sorted((FOLDER / NEVER_OPENED).iterdir()):
        reader = open_any(str(put(NEVER_OPENED, case.read_bytes(), tmp_path / case.name, whole)))
        assert (reader.step, reader.has("training_args")) == (3, False)
    assert not Path(TRAP).exists()


def test_what_is_whole_is_read(whole: Path, tmp_path: Path) -> None:
    reader = open_any(str(whole))
    for read in READS.values():
        read(reader)
    folder = reference_checkpoint(tmp_path)
    model, optimizer, scheduler = live()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(scheduler.state_dict(), folder / "scheduler.pt")
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    for name in ("optimizer", "scheduler", "model", "trainer_state"):
        READS[name](open_any(str(folder)))


def test_reading_the_corpus_needs_little_memory(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    command = [sys.executable, "-c", "from tests.checkpoint.test_corpus import measure; measure()", str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) < MAX_GROWTH_BYTES


def measure() -> None:
    """Print by how many bytes the process grew at most; no more than that may be asked for at all."""
    import resource

    folder = Path(sys.argv[1])
    whole = whole_checkpoint(folder / "whole")
    for read in READS.values():
        read(open_any(str(whole)))
    rng_state()
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        limit = pages * resource.getpagesize() + 2 * MAX_GROWTH_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in sorted(FOLDER.glob("*/*")):
        checkpoint = put(case.parent.name, case.read_bytes(), folder / case.parent.name / case.name, whole)
        try:
            read_of(case.parent.name)(open_any(str(checkpoint)))
        except CheckpointError as error:
            cause: BaseException | None = error
            while cause is not None:
                if isinstance(cause, MemoryError) or "allocate" in str(cause):
                    raise RuntimeError(f"{case} asked for more memory than it may") from error
                cause = cause.__cause__
    unit = 1 if sys.platform == "darwin" else 1024
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit)
