"""In what two checkpoints differ, bit by bit: tensors by name, values by their path in the JSON, other files whole."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hftrain.checkpoint.contents import Part, place_name, tree_part
from hftrain.checkpoint.foreign import OPTIMIZER, open_any
from hftrain.checkpoint.layout import PROTECTED, is_model_file
from hftrain.checkpoint.reader import CheckpointReader
from hftrain.checkpoint.storage import join
from hftrain.checkpoint.tree import unpack
from hftrain.errors import TornCheckpointError

_OF_A_RANK = re.compile(r"(?P<name>rng|grads)-(?P<rank>\d{1,6})")
_OF_THE_REFERENCE = ("model", "optimizer", "scheduler", "scaler")
_PICKLES = (".pt", ".pth", ".bin")
_MAX_ITEMS = 16
"""A list longer than this is one value, such as a random state."""
_HISTORY = "log_history"
_TENSOR_TAGS = ("$tensor", "$array", "$scalar")
_CHUNK = 1 << 18
"""Numbers compared at a time, as float64: what fits into a cache."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_READ_BYTES = 16 << 20
_MISSING = "(not there)"


@dataclass(frozen=True, kw_only=True)
class TensorDifference:
    """One tensor that is not the same.

    Attributes:
        a: its dtype and shape, such as ``float32[3, 2]``; "(not there)" if it is in the other one only.
        num_changed: elements that differ.
        largest: the largest absolute difference; NaN where one of two is NaN; None if the dtypes or shapes differ.
    """

    name: str
    a: str
    b: str
    num_elements: int = 0
    num_changed: int = 0
    largest: float | None = None


@dataclass(frozen=True, kw_only=True)
class ValueDifference:
    """One value of the JSON that is not the same, as text."""

    path: str
    a: str
    b: str


@dataclass(frozen=True, kw_only=True)
class PartDifference:
    """One part, the largest differences of its tensors first. A file of no part has a line of its own in ``values``."""

    name: str
    num_tensors: int = 0
    tensors: Sequence[TensorDifference] = ()
    values: Sequence[ValueDifference] = ()

    @property
    def is_same(self) -> bool:
        """Whether nothing differs."""
        return not self.tensors and not self.values


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two checkpoints beside each other.

    Attributes:
        facts: what the manifests say, by name: (of a, of b); None where there is no manifest.
    """

    a: str
    b: str
    facts: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    parts: Sequence[PartDifference] = ()

    @property
    def is_same(self) -> bool:
        """Whether every part and file is the same, bit for bit; when and by whom they were written does not count."""
        return all(part.is_same for part in self.parts)


def compare(a: str, b: str) -> Comparison:
    """Compare two checkpoints, ours or the reference's, one part of both in memory at a time.

    Raises:
        CheckpointNotFoundError, TornCheckpointError, UnsafeCheckpointError: as ``reader.open_checkpoint``.
    """
    first, second = open_any(a), open_any(b)
    names = dict.fromkeys([*_part_names(first), *_part_names(second)])
    parts = [_compare_part(first, second, name, rank) for name, rank in names]
    others = _compare_files(first, second)
    facts = {name: (_fact(first, name), _fact(second, name)) for name in _FACTS}
    return Comparison(a=first.path, b=second.path, facts=facts, parts=[*parts, *([others] if others else [])])


_FACTS = ("step", "epoch", "samples", "world_size", "run_id", "created", "versions")


def _fact(reader: CheckpointReader, name: str) -> Any:
    return getattr(reader.manifest, name) if reader.manifest is not None else None


# ---- parts ----------------------------------------------------------------------------------------------------------


def _part_names(reader: CheckpointReader) -> Iterator[tuple[str, int | None]]:
    """Name and rank of every part, the model's first."""
    stems = {"model"} if reader.has("model") else set()
    for file in reader.files:
        stem, dot, suffix = file.rpartition(".")
        if dot and suffix in ("safetensors", "json") and not is_model_file(file):
            stems.add(stem)
    if any(file.endswith(_PICKLES) for file in reader.files):
        stems |= {name for name in _OF_THE_REFERENCE if reader.has(name)}
        stems |= {f"rng-{rank}" for rank in range(len(reader.files)) if reader.has("rng", rank=rank)}
    for stem in sorted(stems, key=lambda stem: (stem != "model", stem)):
        of_a_rank = _OF_A_RANK.fullmatch(stem)
        yield (of_a_rank["name"], int(of_a_rank["rank"])) if of_a_rank else (stem, None)


def _compare_part(a: CheckpointReader, b: CheckpointReader, name: str, rank: int | None) -> PartDifference:
    first, second = (reader.part(name, rank=rank) if reader.has(name, rank=rank) else None for reader in (a, b))
    if name == "optimizer" and first and second and a.has_file(OPTIMIZER) + b.has_file(OPTIMIZER) == 1:
        first, second = _by_place(first), _by_place(second)  # the reference knows no names of parameters
    label = name if rank is None else f"{name}-{rank}"
    if first is None or second is None:
        there = "(there)"
        one = ValueDifference(path="", a=_MISSING if first is None else there, b=_MISSING if second is None else there)
        return PartDifference(name=label, values=[one])
    names = dict.fromkeys([*first.tensors, *second.tensors])
    found = [_compare_tensors(key, first.tensors.get(key), second.tensors.get(key)) for key in names]
    differing = [one for one in found if one is not None]
    return PartDifference(
        name=label,
        num_tensors=len(names),
        tensors=sorted(differing, key=_rank_of),
        values=list(_compare_values(_document(first), _document(second))),
    )


def _by_place(optimizer: Part) -> Part:
    """The same state, with each parameter's place in the groups for its name."""
    try:
        saved = unpack(optimizer.tensors, optimizer.document)
        groups: list[dict[str, Any]] = saved["param_groups"]
        places: dict[str, str] = {}
        for number, group in enumerate(groups):
            places |= {name: place_name(number, place) for place, name in enumerate(group["params"])}
        state = {places[name]: value for name, value in saved["state"].items()}
        groups = [{**group, "params": [places[name] for name in group["params"]]} for group in groups]
    except (KeyError, TypeError, AttributeError) as error:
        raise TornCheckpointError(
            f"An optimizer is not what hftrain writes: {type(error).__name__}: {error}."
        ) from error
    return tree_part("optimizer", {"state": state, "param_groups": groups})


def _document(part: Part) -> Any:
    return part.document if not part.shared else {"document": part.document, "shared": dict(part.shared)}


def _rank_of(difference: TensorDifference) -> float:
    """Those that cannot be subtracted come first, and NaN before the numbers."""
    if difference.largest is None or math.isnan(difference.largest):
        return -math.inf
    return -difference.largest


# ---- tensors --------------------------------------------------------------------------------------------------------


def _compare_tensors(name: str, a: Tensor | None, b: Tensor | None) -> TensorDifference | None:
    first, second = _kind(a), _kind(b)
    if a is None or b is None or first != second:
        return TensorDifference(name=name, a=first, b=second)
    one, other = (tensor.contiguous().reshape(-1) for tensor in (a, b))
    if torch.equal(one.view(torch.uint8), other.view(torch.uint8)):
        return None
    num_changed, distances, bits = 0, [0.0], _INTEGERS[one.element_size()]
    for start in range(0, one.numel(), _CHUNK):
        piece, against = one[start : start + _CHUNK], other[start : start + _CHUNK]
        is_changed = piece.view(bits) != against.view(bits)
        num_changed += int(is_changed.sum())
        distances.append(_largest_distance(piece, against, is_changed))
    return TensorDifference(
        name=name,
        a=first,
        b=second,
        num_elements=one.numel(),
        num_changed=num_changed,
        largest=float(torch.tensor(distances, dtype=torch.float64).max()),  # a NaN among them comes out
    )


def _largest_distance(a: Tensor, b: Tensor, is_changed: Tensor) -> float:
    one, other = (tensor if tensor.is_complex() else tensor.to(torch.float64) for tensor in (a, b))
    is_equal = (one == other) | ~is_changed  # 0.0 and -0.0; a NaN that stayed
    return float((one - other).abs().masked_fill(is_equal, 0.0).max())


def _kind(tensor: Tensor | None) -> str:
    return _MISSING if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


# ---- JSON and other files -------------------------------------------------------------------------------------------


def _compare_values(a: Any, b: Any) -> Iterator[ValueDifference]:
    first, second = dict(_flat(a)), dict(_flat(b))
    for path in dict.fromkeys([*first, *second]):
        one, other = first.get(path, _MISSING), second.get(path, _MISSING)
        if one is _MISSING or other is _MISSING or _differ(one, other):
            yield ValueDifference(path=path, a=_shown(one, other), b=_shown(other, one))


def _flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its path. Tensors have their own lines; long lists and log histories are leaves."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            if key not in _TENSOR_TAGS:
                yield from _flat(value, f"{path}/{key}" if path else str(key))
    elif isinstance(node, list) and 0 < len(node) <= _MAX_ITEMS and path != _HISTORY:
        for index, value in enumerate(node):
            yield from _flat(value, f"{path}/{index}" if path else str(index))
    else:
        yield path, node


def _differ(one: Any, other: Any) -> bool:
    return repr(one) != repr(other)  # NaN is itself, and 1 is neither True nor 1.0


def _shown(value: Any, other: Any) -> str:
    if value is _MISSING:
        return str(_MISSING)
    if not isinstance(value, list) or not value:
        return str(repr(value))[:200]
    if not isinstance(other, list):
        return f"{len(value)} items"
    pairs = enumerate(zip(value, other, strict=False))
    place = next((index for index, (one, its) in pairs if _differ(one, its)), min(len(value), len(other)))
    return f"{len(value)} items, other from item {place} on"


def _compare_files(a: CheckpointReader, b: CheckpointReader) -> PartDifference | None:
    """Files that are no part: vocabularies, code. Those that may be pickles are not looked at."""
    names = dict.fromkeys(name for reader in (a, b) for name in reader.files if _is_other(name))
    found = []
    for name in names:
        one, other = (_digest(reader, name) if reader.has_file(name) else _MISSING for reader in (a, b))
        if one != other:
            found.append(ValueDifference(path=name, a=one, b=other))
    return PartDifference(name="other files", values=found) if names else None


def _is_other(name: str) -> bool:
    return not name.endswith((".safetensors", ".json", *_PICKLES)) and name != PROTECTED


def _digest(reader: CheckpointReader, name: str) -> str:
    digest, num_bytes = hashlib.sha256(), 0
    with reader.storage.read(join(reader.path, name)) as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
    return f"{num_bytes} bytes, sha256 {digest.hexdigest()[:12]}"
