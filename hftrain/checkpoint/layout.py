"""What a checkpoint folder is made of: file names, the manifest, and what may be read as JSON or as a path.

No torch here: listing checkpoints must be instant.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hftrain.errors import TornCheckpointError, UnsafeCheckpointError
from hftrain.types.state_fields import is_amount, is_count

FORMAT = 1
INCOMPLETE = ".incomplete"
MANIFEST = "MANIFEST.json"
PROTECTED = ".protected"
"""An empty file that a user's command puts into a committed folder: retention never deletes it."""
TRAINER_STATE = "trainer_state.json"
MODEL = "model.safetensors"
MODEL_INDEX = "model.safetensors.index.json"

MAX_JSON_BYTES = 256 << 20
"""A million logged rows fit; a bomb does not."""
MAX_JSON_DEPTH = 64
MAX_JSON_ITEMS = 1 << 23
"""Three bytes of JSON can become a hundred in memory: so many values of lists and objects are read."""

_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d{1,18})")
_SHARD_NAME = re.compile(r"model-\d{5,}-of-\d{5,}\.safetensors")
_FOREIGN_WEIGHTS = re.compile(r"pytorch_model\.bin(\.index\.json)?|adapter_model\.(safetensors|bin)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_UNSAFE_IN_PATH = re.compile(r"[\\:]")  # backslash and colon lead elsewhere on Windows


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size and checksum of one listed file."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What makes a folder a checkpoint: written last, it lists everything that was written before it.

    Attributes:
        samples: samples consumed, in the seeded global order.
        created: UTC, ISO 8601 with microseconds; its order is the order of the commits in one output_dir.
        files: posix path inside the folder -> size and checksum.
    """

    run_id: str
    step: int
    epoch: float
    samples: int
    world_size: int
    created: str
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """Bytes in all listed files."""
        return sum(record.num_bytes for record in self.files.values())

    def to_json(self) -> bytes:
        """The bytes of MANIFEST.json."""
        document = {
            "format": FORMAT,
            "run_id": self.run_id,
            "step": self.step,
            "epoch": self.epoch,
            "samples": self.samples,
            "world_size": self.world_size,
            "created": self.created,
            "versions": dict(self.versions),
            "files": {
                path: {"bytes": record.num_bytes, "sha256": record.sha256}
                for path, record in sorted(self.files.items())
            },
        }
        return dump_json(document, indent=2)

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read a manifest that anyone may have written.

        Raises:
            NewerFormatError: a later version wrote it.
            UnsafeCheckpointError: it lists a path outside the folder, or is a bomb.
            TornCheckpointError: it is not a manifest, for whatever reason.
        """
        document = load_json(data, name=MANIFEST)
        if not isinstance(document, dict):
            raise TornCheckpointError(f"{MANIFEST} holds no JSON object.")
        version = document.get("format")
        if isinstance(version, int) and is_count(version) and version > FORMAT:
            raise NewerFormatError(
                f"{MANIFEST} has format {version}; this version of hftrain reads format {FORMAT}. Update hftrain."
            )
        wrong = [name for name, is_right in _MANIFEST_FIELDS.items() if not is_right(document.get(name))]
        if wrong:
            raise TornCheckpointError(f"{MANIFEST} has a missing or wrong {', '.join(wrong)}.")
        files = {checked_path(path): _file_record(path, record) for path, record in document["files"].items()}
        if not files.keys().isdisjoint((MANIFEST, INCOMPLETE)):
            raise UnsafeCheckpointError(f"{MANIFEST} lists itself, or {INCOMPLETE}.")
        plain = {name: document[name] for name in ("run_id", "step", "samples", "world_size", "created", "versions")}
        return cls(**plain, epoch=float(document["epoch"]), files=files)


class NewerFormatError(TornCheckpointError):
    """A later version of hftrain wrote this checkpoint: not readable here, and never removed as torn."""


def is_run_id(value: object) -> bool:
    """Whether a value from a file can name a run: the run's folder will have that name."""
    return isinstance(value, str) and bool(_RUN_ID.fullmatch(value))


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and parse_time(value).year < 9000
    except ValueError:
        return False


_MANIFEST_FIELDS: dict[str, Callable[[Any], bool]] = {
    "format": lambda value: is_count(value) and value == FORMAT,
    "run_id": is_run_id,
    "step": is_count,
    "epoch": is_amount,
    "samples": is_count,
    "world_size": lambda value: is_count(value) and value > 0,
    "created": _is_time,
    "versions": lambda value: isinstance(value, dict) and all(isinstance(text, str) for text in value.values()),
    "files": lambda value: isinstance(value, dict),
}


def _file_record(path: str, record: Any) -> FileRecord:
    is_right = isinstance(record, dict) and is_count(record.get("bytes")) and isinstance(record.get("sha256"), str)
    if not is_right or not _SHA256.fullmatch(record["sha256"]):
        raise TornCheckpointError(f"{MANIFEST} has no size and sha256 for {path!r}.")
    return FileRecord(num_bytes=record["bytes"], sha256=record["sha256"])


def checkpoint_name(step: int) -> str:
    """The folder of a step: ``checkpoint-<step>``."""
    return f"checkpoint-{step}"


def parse_step(name: str) -> int | None:
    """The step in a folder's name; None if it is no checkpoint's name."""
    found = _CHECKPOINT_NAME.fullmatch(name)
    return int(found[1]) if found else None


def shard_name(number: int, count: int) -> str:
    """The name of a shard of the model, counted from 1."""
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def is_model_file(name: str) -> bool:
    """Whether the file belongs to the model: whole, index, or shard."""
    return name in (MODEL, MODEL_INDEX) or bool(_SHARD_NAME.fullmatch(name))


def holds_weights(name: str) -> bool:
    """Whether the file, ours or the reference's, holds weights of a model or of adapters, or says where they are."""
    return is_model_file(name) or bool(_FOREIGN_WEIGHTS.fullmatch(name))


def is_plain_path(path: str) -> bool:
    """Whether a path stays inside the folder it is relative to, on any system, and can be shown on a terminal."""
    if not path.isprintable() or len(path) > 1000 or _UNSAFE_IN_PATH.search(path):
        return False
    return all(piece not in ("", ".", "..") for piece in path.split("/"))


def checked_path(path: str) -> str:
    """The path itself, if it stays inside the folder it is relative to.

    Raises:
        UnsafeCheckpointError: it is no plain path, as `is_plain_path` says.
    """
    if not is_plain_path(path):
        raise UnsafeCheckpointError(
            f"The checkpoint names the file {path[:200]!r}, which is not a plain path inside its folder. "
            "Do not use this checkpoint."
        )
    return path


def size_text(num_bytes: int) -> str:
    """A number of bytes for a person: ``"1.2 GB"`` is 1.2 * 10**9."""
    size, unit = float(num_bytes), 0
    while size >= 999.95 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{num_bytes} {_UNITS[0]}"


def new_run_id(now: datetime) -> str:
    """A name for a run, ``YYYYMMDD-HHMMSS-xxxxxx``. Draws nothing from the generators that a run seeds."""
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def utc_text(moment: datetime) -> str:
    """A moment as the manifest writes it, such as ``2026-01-02T03:04:05.000006Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    """The inverse of :func:`utc_text`. Raises ValueError."""
    if len(text) > 40 or not text.endswith("Z"):
        raise ValueError(f"{text[:40]!r} is not a UTC time.")
    return datetime.fromisoformat(text)


def dump_json(document: Any, *, indent: int | None = None) -> bytes:
    """JSON in UTF-8 with a newline at its end; a number of numpy or torch is a number.

    Raises:
        TypeError: JSON does not have it.
    """
    return (json.dumps(document, indent=indent, default=_number) + "\n").encode()


def _number(value: Any) -> Any:
    if getattr(value, "ndim", None) == 0 and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r} is a {type(value).__name__}, which JSON does not have.")


def load_json(data: bytes, *, name: str) -> Any:
    """Parse JSON that anyone may have written.

    Raises:
        UnsafeCheckpointError: larger or deeper than any checkpoint needs.
        TornCheckpointError: not JSON.
    """
    if len(data) > MAX_JSON_BYTES:
        raise UnsafeCheckpointError(f"{name} has {len(data)} bytes; no JSON of a checkpoint has over {MAX_JSON_BYTES}.")
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_JSON_ITEMS:
        raise UnsafeCheckpointError(f"{name} holds more than {MAX_JSON_ITEMS} values.")
    try:
        document = json.loads(data.decode())
    except RecursionError:
        raise UnsafeCheckpointError(f"{name} is nested deeper than {MAX_JSON_DEPTH} levels.") from None
    except ValueError as error:  # also what is not UTF-8, and a number of 5,000 digits
        raise TornCheckpointError(f"{name} is not valid JSON: {error}.") from None
    level = [document]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return document
    raise UnsafeCheckpointError(f"{name} is nested deeper than {MAX_JSON_DEPTH} levels.")
