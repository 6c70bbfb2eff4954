"""How a stranger would make files: pickles by hand, archives around them, checkpoints with one file exchanged."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hftrain.checkpoint.contents import document_part, model_part, optimizer_part, rng_part, scaler_part, scheduler_part
from hftrain.hardware.seeding import rng_state
from tests.checkpoint.kit import manager

# ---- pickles, as opcodes ----------------------------------------------------------------------------


def pickled(*operations: bytes) -> bytes:
    return b"\x80\x02" + b"".join(operations) + b"."


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(number(value) for value in values) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def storage(key: str = "0", *, count: int = 2, kind: str = "FloatStorage") -> bytes:
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(where: bytes, *, size: tuple[int, ...] = (2,), stride: tuple[int, ...] = (1,), offset: int = 0) -> bytes:
    hooks = name("collections", "OrderedDict") + b")R"
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return call(rebuild, where, number(offset), numbers(*size), numbers(*stride), b"\x89", hooks)


def table(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def archive(pickle: bytes, records: Mapping[str, bytes] | None = None, *, compression: int = 0) -> bytes:
    """What torch.save would have written; ``records`` beside ``data/0`` with two floats."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", pickle)
        for entry, data in ({"data/0": bytes(8)} | dict(records or {})).items():
            file.writestr(f"archive/{entry}", data)
    return buffer.getvalue()


# ---- safetensors ------------------------------------------------------------------------------------


def safetensors(header: Any, data: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


# ---- checkpoints ------------------------------------------------------------------------------------


def whole_checkpoint(output_dir: Path) -> Path:
    """A committed checkpoint with every part that a run of one process writes."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    scheduler.step()
    names = {parameter: key for key, parameter in model.named_parameters()}
    scaler = {"scale": 2.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 9, "_growth_tracker": 0}
    window = {"losses": {"window": [0.5], "total": 1.0, "steps_closed": 2}, "meters": {"accuracy": [[1.0], [2.0]]}}
    data = {"position": {"epoch": 0, "batches": 3, "samples": 12}, "order": None, "windows": [window], "seed": 1}
    data |= {"batch_size": 4, "accumulation_steps": 1, "world_size": 1}
    documents = {
        "trainer_state": {"global_step": 3, "epoch": 0.5, "max_steps": 9, "log_history": [{"loss": 1.0, "step": 1}]},
        "data": data,
        "run": {"run_id": "run", "run_name": None, "hftrain": "0"},
        "training_args": {"output_dir": "out", "seed": 1},
        "task": {"class": "x:Y", "arguments": {"size": 1}},
    }
    states = [optimizer_part(optimizer, names), scheduler_part(scheduler), scaler_part(scaler), rng_part(rng_state())]
    parts = [model_part(model.state_dict()), *states, *(document_part(key, it) for key, it in documents.items())]
    return Path(manager(output_dir).save(3, parts, epoch=0.5, samples=12))


def exchange(folder: Path, file_name: str, data: bytes) -> None:
    """Put other bytes under a file's name, and the manifest right: a stranger does that too."""
    (folder / file_name).write_bytes(data)
    manifest = json.loads((folder / "MANIFEST.json").read_bytes())
    manifest["files"][file_name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
