"""Write the corpus: what a stranger may put under each file name of a checkpoint.

``python -m tests.checkpoint.corpus.make`` writes ``files/<name of the file>/<what is wrong with it>``, small enough to
be kept: a bomb needs no size before it goes off. The tests compare the folder with what this script makes.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

from tests.checkpoint.hostile import (
    archive,
    call,
    name,
    number,
    numbers,
    pickled,
    safetensors,
    storage,
    table,
    tensor,
    text,
)

FOLDER = Path(__file__).with_name("files")
TRAP = "the-trap-was-sprung"
"""A file that an executed pickle makes in the current folder."""

TREE_FILES = ["optimizer.json", "rng-0.json", "scaler.json", "scheduler.json"]
JSON_FILES = [*TREE_FILES, "data.json", "run.json", "task.json", "trainer_state.json"]
SAFETENSORS_FILES = ["model.safetensors", "optimizer.safetensors", "rng-0.safetensors"]
PICKLED_FILES = ["optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "pytorch_model.bin"]
INDEX = "model.safetensors.index.json"
MANIFEST = "MANIFEST.json"
NEVER_OPENED = "training_args.bin"


class _Call:
    def __reduce__(self) -> Any:
        return open, (TRAP, "w")


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


PICKLES = {
    "a-pickle": pickle.dumps(_Call(), protocol=4),
    "an-old-pickle": pickle.dumps(_Call(), protocol=0),
    "nothing": b"",
    "zeros": bytes(4096),
    "text": b"not a checkpoint\n" * 10,
}

BROKEN_JSON = {
    "deep-lists": b"[" * 3_000 + b"]" * 3_000,
    "deep-objects": b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
    "deep-and-open": b'[{"":' * 3_000,
    "a-list": b"[1, 2]",
    "a-number": b"1",
    "a-number-of-9000-digits": b"1" * 9_000,
    "cut": b'{"global_step": 1',
    "not-utf8": b'{"a": "\xff\xfe"}',
    "utf16": '{"a": 1}'.encode("utf-16"),
}

BROKEN_TREES = {
    "a-tag-of-nothing": _json({"$tensor": "nowhere"}),
    "an-unknown-tag": _json({"$object": "os.system"}),
    "tags-in-tags": _json({"$tuple": {"$dict": 3}}),
}

_ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BROKEN_SAFETENSORS = {
    "a-header-of-2-to-62-bytes": (1 << 62).to_bytes(8, "little") + b"{}",
    "a-header-longer-than-the-file": (99).to_bytes(8, "little") + b"{}",
    "a-deep-header": safetensors(b"[" * 3_000),
    "a-header-of-a-list": safetensors([]),
    "a-tensor-of-an-exabyte": safetensors({"w": _ENTRY | {"shape": [1 << 60], "data_offsets": [0, 1 << 62]}}, bytes(8)),
    "a-tensor-larger-than-the-file": safetensors({"w": _ENTRY | {"shape": [1 << 38], "data_offsets": [0, 1 << 40]}}),
    "an-empty-tensor-that-overflows": safetensors(
        {"w": _ENTRY | {"shape": [0, 1 << 47, 1 << 47], "data_offsets": [0, 0]}}
    ),
    "many-dimensions": safetensors({"w": _ENTRY | {"shape": [1] * 99 + [2]}}, bytes(8)),
    "a-negative-shape": safetensors({"w": _ENTRY | {"shape": [-2]}}, bytes(8)),
    "an-offset-that-is-nan": safetensors(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[NaN,8]}}', bytes(8)),
    "two-tensors-in-one-place": safetensors({"v": _ENTRY, "w": _ENTRY}, bytes(8)),
    "a-hole": safetensors({"w": _ENTRY | {"data_offsets": [8, 16]}}, bytes(16)),
    "more-behind-the-end": safetensors({"w": _ENTRY}, bytes(80)),
    "an-unknown-dtype": safetensors({"w": _ENTRY | {"dtype": "PICKLE"}}, bytes(8)),
    "metadata-of-numbers": safetensors({"__metadata__": {"a": 1}, "w": _ENTRY}, bytes(8)),
}
BROKEN_MODEL = {
    "names-that-share-nothing": safetensors({"__metadata__": {"hftrain.shared": '{"v": "nowhere"}'}}),
    "deep-shared-names": safetensors({"__metadata__": {"hftrain.shared": "[" * 3_000}}),
}

_GOOD_FILE = {"bytes": 1, "sha256": "0" * 64}
_GOOD_MANIFEST = {"format": 1, "run_id": "run", "step": 3, "epoch": 0.5, "samples": 12, "world_size": 1}
_GOOD_MANIFEST |= {"created": "2026-01-02T03:04:05.000006Z", "versions": {}, "files": {}}


def _manifest(**changes: Any) -> bytes:
    return _json(_GOOD_MANIFEST | changes)


def _listing(path: str) -> bytes:
    return _manifest(files={path: _GOOD_FILE})


BROKEN_MANIFESTS = {
    "a-path-above": _listing("../../secret"),
    "a-path-through-a-folder": _listing("a/../../secret"),
    "an-absolute-path": _listing("/etc/passwd"),
    "a-path-of-windows": _listing("..\\secret"),
    "a-drive": _listing("C:secret"),
    "a-stream": _listing("model.safetensors:hidden"),
    "a-zero-in-a-path": _listing("a\0b"),
    "an-escape-in-a-path": _listing("a\x1b[2Jb"),
    "a-surrogate-in-a-path": _listing("\ud800"),
    "a-path-of-nothing": _listing(""),
    "a-very-long-path": _listing("x" * 5_000),
    "a-device": _listing("../../../../dev/zero"),
    "itself": _listing(MANIFEST),
    "a-file-that-is-not-there": _listing("nowhere"),
    "a-file-of-an-exabyte": _manifest(files={"model.safetensors": _GOOD_FILE | {"bytes": 1 << 60}}),
    "a-sum-that-is-none": _manifest(files={"model.safetensors": _GOOD_FILE | {"sha256": "../../x"}}),
    "a-step-that-is-nan": _manifest(step=float("nan")),
    "a-step-that-is-infinite": _manifest(step=float("inf")),
    "a-step-below-zero": _manifest(step=-1),
    "a-step-too-large": _manifest(step=1 << 64),
    "samples-that-are-nan": _manifest(samples=float("nan")),
    "an-epoch-that-is-nan": _manifest(epoch=float("nan")),
    "an-epoch-of-400-digits": _manifest(epoch=10**399),
    "no-process": _manifest(world_size=0),
    "a-run-elsewhere": _manifest(run_id="../../../elsewhere"),
    "a-run-of-an-object": _manifest(run_id={}),
    "a-time-of-the-end": _manifest(created="9999-12-31T23:59:59Z"),
    "another-format": _manifest(format=1 << 40),
}

BROKEN_INDEXES = {
    "a-path-above": _json({"weight_map": {"w": "../secret.safetensors"}}),
    "an-absolute-path": _json({"weight_map": {"w": "/etc/passwd"}}),
    "a-device": _json({"weight_map": {"w": "/dev/zero"}}),
    "a-url": _json({"weight_map": {"w": "https://example.invalid/model.safetensors"}}),
    "itself": _json({"weight_map": {"w": INDEX}}),
    "a-file-that-is-not-there": _json({"weight_map": {"w": "model-00001-of-00001.safetensors"}}),
    "a-number": _json({"weight_map": {"w": 1}}),
    "no-map": _json({"metadata": {}}),
    "a-list": b"[]",
    "deep": b"[" * 3_000,
    "a-pickle": PICKLES["a-pickle"],
}

_ARRAY = name("numpy._core.multiarray", "_reconstruct"), name("numpy", "ndarray")


def _bomb() -> bytes:
    return archive(
        table(a=tensor(storage(count=1 << 22))), {"data/0": bytes(1 << 24)}, compression=zipfile.ZIP_DEFLATED
    )


def _overlapping() -> bytes:
    """Two entries of the directory whose bytes are one file's: each more costs 50 bytes."""
    whole = archive(pickled(b"N"), {"data/0": bytes(3_000)})
    start = int.from_bytes(whole[-6:-2], "little")
    entry = whole[start:-22]
    second = entry[entry.rindex(b"PK\x01\x02") :]
    copies = b"".join(second.replace(b"data/0", b"data/%d" % number) for number in range(1, 10))
    end = bytearray(whole[-22:])
    for place in (8, 10):
        end[place : place + 2] = (11).to_bytes(2, "little")
    end[12:16] = (len(entry) + len(copies)).to_bytes(4, "little")
    return whole[:-22] + copies + bytes(end)


def _with_comment() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickled(b"N"))
        file.comment = b"x" * 100
    return buffer.getvalue()


BROKEN_ARCHIVES = {
    "a-function": archive(pickle.dumps(_Call(), protocol=2)),
    "a-newer-pickle": archive(pickle.dumps(_Call(), protocol=4)),
    "a-function-of-torch": archive(pickled(call(name("torch.hub", "load"), text("x"), text("y")))),
    "a-bomb": _bomb(),
    "overlapping-entries": _overlapping(),
    "a-comment": _with_comment(),
    "no-pickle": archive(b"")[:-40],
    "a-storage-of-a-terabyte": archive(pickled(table(a=tensor(storage(count=1 << 38))))),
    "a-tensor-of-a-terabyte": archive(pickled(table(a=tensor(storage(), size=(1 << 38,))))),
    "a-tensor-thrown-away": archive(pickled(b"}", tensor(storage(), size=(1 << 38,)), b"K\x01s")),
    "a-tensor-that-repeats": archive(pickled(table(a=tensor(storage(), size=(1 << 38,), stride=(0,))))),
    "an-array-of-a-terabyte": archive(pickled(call(*_ARRAY, numbers(1 << 40), text("b")))),
    "bytes-of-a-terabyte": archive(pickled(call(name("builtins", "bytearray"), number(1 << 40)))),
    "lists-of-lists-of-lists": archive(
        pickled(b"](K\x01K\x01e" + b"".join(b"q%c](h%ch%ch%ch%ch%ch%ch%ch%ce" % ((i,) * 9) for i in range(20)))
    ),
    "a-list-in-itself": archive(pickled(b"]q\x00h\x00a")),
    "nothing-in-it": archive(pickled(b"N")),
}

_NAN = float("nan")
WRONG_VALUES = {
    "trainer_state.json": {
        "a-step-that-is-nan": _json({"global_step": _NAN}),
        "a-step-below-zero": _json({"global_step": -5}),
        "a-step-of-text": _json({"global_step": "1"}),
        "tokens-that-are-nan": _json({"global_step": 1, "num_input_tokens_seen": _NAN}),
        "rows-of-numbers": _json({"global_step": 1, "log_history": [1, 2]}),
        "a-method-in-a-callback": _json({"global_step": 1, "stateful_callbacks": {"A": "on_step_end"}}),
    },
    "data.json": {
        "a-position-that-is-nan": _json({"position": {"epoch": _NAN, "batches": 0, "samples": 0}}),
        "a-position-below-zero": _json({"position": {"epoch": 0, "batches": -1, "samples": 0}}),
        "a-batch-size-of-zero": _json({"batch_size": 0}),
        "an-order-of-nothing": _json({"order": {"drawn_from": "AAAA"}}),
    },
    "run.json": {"a-run-elsewhere": _json({"run_id": "../../elsewhere"}), "a-run-of-an-object": _json({"run_id": {}})},
    "task.json": {"arguments-in-a-list": _json({"class": "a:B", "arguments": [1]})},
    "scaler.json": {
        "a-scale-that-is-nan": _json({"scale": {"$float": "nan"}}),
        "a-count-of-text": _json({"_growth_tracker": "1"}),
    },
    "scheduler.json": {
        "a-method": _json({"step": "text", "last_epoch": 1}),
        "an-optimizer": _json({"optimizer": {}, "last_epoch": 1}),
        "a-count-that-is-nan": _json({"last_epoch": {"$float": "nan"}}),
        "a-function-with-attributes": _json({"lr_lambdas": [{"__call__": "text"}]}),
    },
}  # fmt: skip


def corpus() -> dict[str, dict[str, bytes]]:
    """Name of the file -> what is wrong -> its bytes."""
    found = {file: PICKLES | BROKEN_JSON | WRONG_VALUES.get(file, {}) for file in JSON_FILES}
    found |= {file: found[file] | BROKEN_TREES for file in TREE_FILES}
    found |= {file: PICKLES | BROKEN_SAFETENSORS for file in SAFETENSORS_FILES}
    found["model.safetensors"] |= BROKEN_MODEL
    found |= {file: PICKLES | BROKEN_ARCHIVES for file in PICKLED_FILES}
    found[MANIFEST] = PICKLES | BROKEN_JSON | BROKEN_MANIFESTS
    found[INDEX] = BROKEN_INDEXES
    found[NEVER_OPENED] = {key: PICKLES[key] for key in ("a-pickle", "an-old-pickle")}
    return found


def main() -> None:
    for file, cases in corpus().items():
        (FOLDER / file).mkdir(parents=True, exist_ok=True)
        for case, data in cases.items():
            (FOLDER / file / case).write_bytes(data)


if __name__ == "__main__":
    main()
