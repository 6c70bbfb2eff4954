"""A checkpoint of ours, written as the reference, transformers' Trainer, writes its own, so that it resumes there.

The second of two doors that pickles pass, and it opens outwards only: what is pickled are tensors, numpy's random state
and plain data, all of which torch's weights-only unpickler reads. ``training_args.bin`` is not written: it is a pickled
object, and no resume reads it.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hftrain.checkpoint.checks import check_optimizer
from hftrain.checkpoint.contents import Part, model_state, rng_of, scaler_state, tree_of
from hftrain.checkpoint.foreign import OPTIMIZER, WEIGHTS
from hftrain.checkpoint.layout import INCOMPLETE, TRAINER_STATE, Manifest, dump_json, is_model_file
from hftrain.checkpoint.reader import CheckpointReader, open_checkpoint
from hftrain.checkpoint.storage import Storage, Written, folder_of, is_url, join, name_of, plain_path, seal, storage_for
from hftrain.checkpoint.tree import unpack
from hftrain.errors import CheckpointError, ConfigurationError, TornCheckpointError

_ONLY_OURS = re.compile(
    r"(optimizer|scheduler|scaler)\.(safetensors|json)|(rng|grads)-\d+\.(safetensors|json)|(data|run|model)\.json"
)
"""Files that the reference has under other names, or not at all. What it does not know and is plain is copied."""
_PICKLES = re.compile(r".*\.(pt|pth|bin|pkl|pickle|ckpt)", re.IGNORECASE | re.DOTALL)
_COPIED_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        files: file name -> bytes.
        notes: what the checkpoint holds and the reference has no place for, or the other way round; a line each.
    """

    folder: str
    files: dict[str, int]
    notes: list[str]


def export_to_transformers(path: str, folder: str) -> Exported:
    """Write a checkpoint into a new folder as transformers' Trainer would have, to be resumed from there.

    It is read and verified in full first. Until the export is whole, the folder holds ``.incomplete``, and
    ``trainer_state.json`` is written last; an export that fails leaves nothing.

    Args:
        path: a committed checkpoint of hftrain.
        folder: where to write; must be empty, or not there.

    Raises:
        CheckpointNotFoundError, TornCheckpointError, UnsafeCheckpointError: as ``reader.open_checkpoint``.
        CheckpointError: it is not one of ours.
        ConfigurationError: something lies in ``folder``.
    """
    reader = open_checkpoint(path, verify="full")
    if reader.manifest is None:
        raise CheckpointError(
            f"{reader.path} has no manifest, so hftrain did not write it. What transformers wrote needs no export."
        )
    folder = plain_path(folder)
    storage = storage_for(folder)
    if storage.list(folder) or _is_file(storage, folder):
        raise ConfigurationError(f"{folder} is a file or not empty. Export into a new folder.")
    notes = _notes(reader)
    try:
        storage.write(join(folder, INCOMPLETE), [dump_json({"exporting": reader.path})])
        written = _write(reader, reader.manifest, storage, folder)
        storage.delete(join(folder, INCOMPLETE))
    except BaseException:
        storage.delete(folder)
        raise
    files = {name: one.num_bytes for name, one in sorted(written.items())}
    return Exported(folder=folder, files=files, notes=notes)


def _is_file(storage: Storage, path: str) -> bool:
    there = next((entry for entry in storage.list(folder_of(path)) if entry.name == name_of(path)), None)
    return there is not None and there.kind != "folder" and not os.path.isdir(path)


def _write(reader: CheckpointReader, manifest: Manifest, storage: Storage, folder: str) -> dict[str, Written]:
    _refuse_strange(reader)
    is_pickled = reader.has_file("model.json")  # states that are no tensors: no safetensors file has a place for them
    copied = [
        name
        for name in reader.files
        if not (_ONLY_OURS.fullmatch(name) or _PICKLES.fullmatch(name) or name == TRAINER_STATE)
        and not (is_pickled and is_model_file(name))
    ]
    written = {name: storage.write(join(folder, name), _chunks(reader, name)) for name in copied}
    pickles = _pickles(reader, min(manifest.world_size, len(reader.files)))  # each process wrote a file
    if is_pickled:
        pickles[WEIGHTS] = lambda: model_state(reader.part("model"))
    for name, value in pickles.items():
        written[name] = _save(storage, join(folder, name), _made(value, reader.path, name))
    if reader.has_file(TRAINER_STATE):
        written[TRAINER_STATE] = storage.write(join(folder, TRAINER_STATE), _chunks(reader, TRAINER_STATE))
    return written


def _refuse_strange(reader: CheckpointReader) -> None:
    """Raise where a file that will be copied as it is holds something else than its name says."""
    if reader.has("model"):
        reader.part("model")
    for name in reader.files:
        if name.endswith(".safetensors") and not is_model_file(name) and not _ONLY_OURS.fullmatch(name):
            reader.tensors(name.removesuffix(".safetensors"))
    for name in ("trainer_state", "task"):
        if reader.has(name):
            reader.fields(name)


def _pickles(reader: CheckpointReader, world_size: int) -> dict[str, Callable[[], Any]]:
    """File name -> what makes its content: one at a time is in memory."""
    found: dict[str, Callable[[], Any]] = {}
    if reader.has("optimizer"):
        found[OPTIMIZER] = lambda: _optimizer_state(reader.part("optimizer"))
    if reader.has("scheduler"):
        found["scheduler.pt"] = lambda: dict(tree_of(reader.part("scheduler")))
    if reader.has("scaler"):
        found["scaler.pt"] = lambda: scaler_state(reader.part("scaler"))
    for rank in range(world_size):
        if reader.has("rng", rank=rank):
            name = "rng_state.pth" if world_size == 1 else f"rng_state_{rank}.pth"
            found[name] = lambda rank=rank: _rng_state(rng_of(reader.part("rng", rank=rank)), world_size)  # type: ignore[misc]
    return found


def _made(value: Callable[[], Any], path: str, name: str) -> Any:
    try:
        return _plain(value())
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise TornCheckpointError(
            f"{path} does not hold what hftrain writes; {name} cannot be made of it: {type(error).__name__}: {error}."
        ) from error


def _optimizer_state(part: Part) -> dict[str, Any]:
    """torch's own form: parameters by their place in the groups, as the reference's groups have them too."""
    saved = check_optimizer(unpack(part.tensors, part.document))
    names = [name for group in saved["param_groups"] for name in group["params"]]
    index_of = {name: index for index, name in enumerate(names)}
    groups = [{**group, "params": [index_of[name] for name in group["params"]]} for group in saved["param_groups"]]
    state = {index_of[name]: value for name, value in saved["state"].items()}
    return {"state": state, "param_groups": groups, **saved["more"]}


def _rng_state(state: dict[str, Any], world_size: int) -> dict[str, Any]:
    python, numpy = state["python"], state["numpy"]
    words = np.array(numpy["words"], dtype=np.uint32)
    tree = {
        "python": (python["version"], tuple(python["words"]), python["gauss"]),
        "numpy": ("MT19937", words, numpy["position"], numpy["has_gauss"], numpy["gauss"]),
        "cpu": state["torch"],
    }
    if "cuda" in state:  # of several processes, the reference wants one for each device that they see
        tree["cuda"] = state["cuda"] if world_size == 1 else [state["cuda"]] * world_size
    return tree


def _notes(reader: CheckpointReader) -> list[str]:
    notes = []
    if not reader.has("optimizer"):
        notes.append("It has no optimizer (save_only_model): transformers goes on with a new one.")
    if any(name.startswith("grads-") for name in reader.files):
        notes.append("It was saved inside an accumulation window: transformers begins that window again.")
    data = reader.fields("data") if reader.has_file("data.json") else {}
    if (data.get("unfinished") or {}).get("evaluate"):
        notes.append("It was saved inside an evaluation: transformers does not run that one again.")
    if data and not _is_found_by_steps(data, reader.step):
        notes.append(
            "Its steps were not all of one size (another batch size, accumulation or number of processes, or data that "
            "was not skipped): transformers, which finds its place in the data by counting steps, begins elsewhere."
        )
    left_out = [name for name in reader.files if _PICKLES.fullmatch(name)]
    if left_out:
        notes.append(f"Not copied, since they may be pickles that hftrain did not write: {', '.join(left_out)}.")
    if reader.has("rng", rank=0) and "mps" in reader.fields("rng-0"):
        notes.append("transformers keeps no random state of an mps device: random numbers there start anew.")
    return notes


def _is_found_by_steps(data: dict[str, Any], step: int) -> bool:
    """Whether the same number of steps in each epoch before leads to where the data stands."""
    position = data.get("position", {})
    epoch, batches = position.get("epoch", 0), position.get("batches", 0)
    whole, rest = divmod(batches, max(data.get("accumulation_steps", 1), 1))
    for steps in {whole, whole + bool(rest)}:  # a rest is a window that was cut, or the last one of an epoch
        before = step - steps
        if before == 0 if epoch == 0 else before % epoch == 0 and before // epoch >= max(steps, 1):
            return True
    return False


def _plain(node: Any) -> Any:
    """The same tree without numpy's scalars, which the weights-only unpickler refuses."""
    if isinstance(node, np.generic):
        return node.item()
    if type(node) is dict:
        return {_plain(key): _plain(value) for key, value in node.items()}
    if type(node) in (list, tuple):
        return type(node)(_plain(item) for item in node)
    return node


def _chunks(reader: CheckpointReader, name: str) -> Iterator[bytes]:
    with reader.storage.read(join(reader.path, name)) as file:
        while piece := file.read(_COPIED_BYTES):
            yield piece


def _save(storage: Storage, path: str, value: Any) -> Written:
    if is_url(path):
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return storage.write(path, [buffer.getbuffer()])
    torch.save(value, path)
    return seal(storage, path)
