"""What a run shows beside numbers: files in the run's own folder first, and trackers are told of them from there.

They stay in ``<output_dir>/runs/<run_id>/``, so that a tracker that is told late still finds them.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable
from operator import index
from typing import TYPE_CHECKING, Any

from hftrain.errors import ConfigurationError, PluginError
from hftrain.plugin_api.values import masked
from hftrain.trainer.media_files import write_histogram, write_image, write_text
from hftrain.trainer.tracking import known_secrets

if TYPE_CHECKING:
    from hftrain.callbacks.tracking import Tracking
    from hftrain.trainer.base import TrainerBase

logger = logging.getLogger(__name__)

MEDIA, ARTIFACTS = "media", "artifacts"
_WRITERS: dict[str, tuple[str, Callable[[Any, str], int]]] = {
    "image": (".png", write_image),
    "histogram": (".npz", write_histogram),
    "text": (".txt", write_text),
}
_LONGEST_NAME = 80


def log_media(trainer: TrainerBase, name: str, value: Any, *, kind: str, step: int | None) -> None:
    """Write ``value`` into the run's folder and report it; `Trainer.log_media` tells what is taken."""
    _check_name("log_media", name)
    if kind not in _WRITERS:
        raise ConfigurationError(f"log_media: kind={kind!r} is none of {', '.join(map(repr, _WRITERS))}.")
    tracking = trainer._tracking
    if tracking is None:
        return
    step = _step(trainer, step)
    if kind == "text" and isinstance(value, str):
        value = masked(value, secrets=known_secrets(trainer.args))
    suffix, write = _WRITERS[kind]
    stem = f"{MEDIA}/{_safe(name)}-{step}-{secrets.token_hex(4)}"
    written: list[int] = []
    if not _is_kept(trainer, tracking, stem + suffix, lambda path: written.append(write(value, path))):
        return
    data: dict[str, Any] = {"name": name, "kind": kind, "path": stem + suffix}
    if written[0]:
        data["num_non_finite"] = written[0]
        logger.warning(
            "%d values of the %s %r at step %d are not finite: %s.",
            written[0],
            kind,
            name,
            step,
            "they are left out" if kind == "histogram" else "they are black",
        )
    tracking.report("media", step=step, epoch=trainer.state.epoch, data=data)


def log_artifacts(trainer: TrainerBase, path: str | os.PathLike[str], *, name: str | None) -> None:
    """Copy a folder or a file into the run's folder and report it; `Trainer.log_artifacts` tells more."""
    source = os.path.abspath(os.fspath(path))
    name = os.path.basename(source) if name is None else name
    _check_name("log_artifacts", name)
    tracking = trainer._tracking
    if tracking is None:
        return
    if not os.path.exists(source):
        raise ConfigurationError(
            f"log_artifacts: there is nothing at {os.fspath(path)!r} (looked for {source}). Write it first, or give "
            "the path of what is there; it must be on a local disk."
        )
    step = _step(trainer, None)
    below = f"{ARTIFACTS}/{_safe(name)}-{step}-{secrets.token_hex(4)}/{_safe(os.path.basename(source), is_file=True)}"
    if _is_kept(trainer, tracking, below, lambda target: _copy(source, target, without=tracking.folder())):
        tracking.report("artifact", step=step, epoch=trainer.state.epoch, data={"name": name, "path": below})


def _is_kept(trainer: TrainerBase, tracking: Tracking, below: str, write: Callable[[str], object]) -> bool:
    """Have a file written below the run's folder. A disk that refuses is a warning, as it is for rows.

    Raises:
        PluginError: it is refused, and ``tracker_errors="raise"``.
    """
    path = os.path.join(tracking.folder(), *below.split("/"))
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write(path)
    except OSError as error:
        text = f"{path} cannot be written ({error})"
        if trainer.args.tracker_errors == "raise":
            raise PluginError(f"{text}, and tracker_errors='raise'.") from error
        logger.warning("%s. Training goes on; trackers are not told of it.", text)
        return False
    return True


def _copy(source: str, target: str, *, without: str) -> None:
    """Copy a file or a folder, except for the run's own folder in it, where the copy lies."""
    if not os.path.isdir(source):
        shutil.copy2(source, target)
        return
    own = os.path.realpath(without)

    def left_out(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if os.path.realpath(os.path.join(folder, name)) == own]

    shutil.copytree(source, target, ignore=left_out, ignore_dangling_symlinks=True)


def _check_name(method: str, name: Any) -> None:
    if not isinstance(name, str) or not name.strip():
        raise ConfigurationError(
            f"{method}: name={name!r} is no name. Give a text such as 'samples' or 'eval/samples'."
        )


def _step(trainer: TrainerBase, step: int | None) -> int:
    if step is None:
        return trainer.state.global_step
    try:
        number = index(step)
    except TypeError:
        number = -1
    if number < 0 or isinstance(step, bool):
        raise ConfigurationError(f"log_media: step={step!r} is no step. Give an integer of at least 0, or None.")
    return number


def _safe(name: str, *, is_file: bool = False) -> str:
    """Return a name that is one file name on every system; a file keeps its end, which tells what it is."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "_"
    return clean[-_LONGEST_NAME:].lstrip(".") if is_file else clean[:_LONGEST_NAME]
