"""Reading what the reference, transformers' Trainer, writes into a checkpoint folder.

Its optimizer, scheduler, scaler and random states are pickles. They are read by torch's weights-only unpickler, which
builds tensors and plain data and calls nothing else, with the four names of numpy that an array needs in addition.
``training_args.bin``, which holds an object, is never opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from hftrain.checkpoint.catalog import Verification
from hftrain.checkpoint.contents import Part, place_name, tree_part
from hftrain.checkpoint.formats import shards_of_index
from hftrain.checkpoint.layout import is_plain_path
from hftrain.checkpoint.pickled import load_pickled
from hftrain.checkpoint.reader import CheckpointReader, check_memory, open_checkpoint
from hftrain.checkpoint.storage import Storage, join, walk
from hftrain.errors import TornCheckpointError

WEIGHTS = "pytorch_model.bin"
WEIGHTS_INDEX = "pytorch_model.bin.index.json"
OPTIMIZER = "optimizer.pt"


class ForeignReader(CheckpointReader):
    """A folder without a manifest, with the reference's files where ours are not.

    Each part comes in the form that ours have, so that whoever loads it need not know.
    """

    def __init__(self, reader: CheckpointReader) -> None:
        super().__init__(reader.storage, reader.folder)
        # Adapters lie one folder deeper, and without a manifest only the top was looked at.
        found = walk(self.storage, self.path)
        self._sizes = {path: it.num_bytes for path, it in found if it.kind == "file" and is_plain_path(path)}

    def has(self, name: str, *, rank: int | None = None) -> bool:
        """Whether the checkpoint has a part, in our form or in the reference's."""
        return super().has(name, rank=rank) or self._foreign_name(name, rank) is not None

    def part(self, name: str, *, rank: int | None = None) -> Part:
        """A part in our form. Raises as `CheckpointReader.part`, and UnsafeCheckpointError."""
        file_name = self._foreign_name(name, rank)
        if super().has(name, rank=rank) or file_name is None:
            return super().part(name, rank=rank)
        if name == "model" or name.endswith("adapter_model"):
            return Part(name=name, tensors=self.tensors(name))
        state = self._load(file_name)
        try:
            return _IN_OUR_FORM[name](state, rank or 0)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise TornCheckpointError(
                f"{join(self.path, file_name)} is not what the reference writes: {type(error).__name__}: {error}."
            ) from error

    def tensors(self, name: str, *, rank: int | None = None) -> dict[str, Tensor]:
        """The tensors of a part, on the CPU; none if it has none."""
        file_name = self._foreign_name(name, rank)
        if super().has(name, rank=rank) or file_name is None:
            return super().tensors(name, rank=rank)
        names = shards_of_index(self._json(file_name)) if file_name == WEIGHTS_INDEX else [file_name]
        tensors: dict[str, Tensor] = {}
        for one in names:
            found = self._load(one)
            if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
                raise TornCheckpointError(f"{join(self.path, one)} holds something else than named tensors.")
            tensors |= found
        if any(not isinstance(key, str) for key in tensors):
            raise TornCheckpointError(f"{join(self.path, file_name)} holds something else than named tensors.")
        return tensors

    def _foreign_name(self, name: str, rank: int | None) -> str | None:
        if name.endswith("adapter_model"):
            names = [f"{name}.bin"]
        elif name == "rng":
            names = [f"rng_state_{rank}.pth", *(["rng_state.pth"] if rank == 0 else [])]
        else:
            names = _FILE_NAMES.get(name, [])
        return next((one for one in names if self.has_file(one)), None)

    def _load(self, name: str) -> Any:
        size = self._size(name)
        check_memory(size, name=join(self.path, name))
        with self.storage.read(join(self.path, name)) as file:
            return load_pickled(file, size, name=join(self.path, name))


def open_any(path: str, *, verify: Verification = "auto", storage: Storage | None = None) -> CheckpointReader:
    """Open a checkpoint of ours, verified, or one of the reference; raises as `reader.open_checkpoint`."""
    reader = open_checkpoint(path, verify=verify, storage=storage)
    return reader if reader.manifest is not None else ForeignReader(reader)


# ---- into our form ------------------------------------------------------------------------------------------------


def _optimizer_part(state: Any, rank: int) -> Part:
    """The reference's optimizer knows its parameters by their place; so does ours where it has no names."""
    names: dict[int, str] = {}
    groups = []
    for number, group in enumerate(state["param_groups"]):
        names |= {index: place_name(number, place) for place, index in enumerate(group["params"])}
        groups.append({**group, "params": [names[index] for index in group["params"]]})
    by_name = {names[index]: value for index, value in state["state"].items()}
    more = {key: value for key, value in state.items() if key not in ("state", "param_groups")}
    return tree_part("optimizer", {"state": by_name, "param_groups": groups, "more": more})


def _rng_part(state: Any, rank: int) -> Part:
    version, words, gauss = state["python"]
    _, twister, position, has_gauss, cached = state["numpy"]
    tree = {
        "python": {"version": version, "words": list(words), "gauss": gauss},
        "numpy": {
            "words": twister.tolist(),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(cached),
        },
        "torch": state["cpu"],
    }
    if "cuda" in state:
        cuda = state["cuda"]  # of one device, or of each that its process saw
        tree["cuda"] = cuda[rank % len(cuda)] if isinstance(cuda, list | tuple) else cuda
    return tree_part("rng", tree, per_rank=True)


_FILE_NAMES = {
    "model": [WEIGHTS, WEIGHTS_INDEX],
    "optimizer": [OPTIMIZER],
    "scheduler": ["scheduler.pt"],
    "scaler": ["scaler.pt"],
}
_IN_OUR_FORM: dict[str, Callable[[Any, int], Part]] = {
    "optimizer": _optimizer_part,
    "scheduler": lambda state, rank: tree_part("scheduler", dict(state)),
    "scaler": lambda state, rank: tree_part("scaler", dict(state)),
    "rng": _rng_part,
}
