"""What a run runs on, as its record and its trackers tell it. Neither user nor host is named."""

from __future__ import annotations

import os
import platform
import re
from typing import TYPE_CHECKING, Any

import torch

from hftrain._version import __version__

if TYPE_CHECKING:
    from hftrain.args.training import TrainingArguments

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def environment_of(args: TrainingArguments) -> dict[str, Any]:
    """Return versions, platform, device, number of processes, and the git commit of the working directory."""
    found = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "hftrain": __version__,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "device": _device_name(args.device),
        "num_processes": args.world_size,
        "num_cpus": os.cpu_count(),
        "git_commit": git_commit(os.getcwd()),
    }
    return {name: value for name, value in found.items() if value is not None}


def git_commit(folder: str) -> str | None:
    """Return the commit that is checked out around a folder, from git's own files; None if there is none.

    Reading them costs a few opened files; starting git would cost milliseconds, and it may not be there.
    """
    try:
        place = _git_folder(os.path.abspath(folder))
        if place is None:
            return None
        head = _line(os.path.join(place, "HEAD"))
        commit = _resolved(place, head.removeprefix("ref:").strip()) if head.startswith("ref:") else head
    except (OSError, ValueError):
        return None
    return commit if commit is not None and _COMMIT.fullmatch(commit) else None


def _git_folder(folder: str) -> str | None:
    while True:
        found = os.path.join(folder, ".git")
        if os.path.isdir(found):
            return found
        if os.path.isfile(found):  # of a worktree, or a submodule
            return os.path.join(folder, _line(found).removeprefix("gitdir:").strip())
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above


def _resolved(place: str, name: str) -> str | None:
    shared = os.path.join(place, "commondir")
    common = os.path.join(place, _line(shared)) if os.path.isfile(shared) else place
    for root in (place, common):
        if os.path.isfile(os.path.join(root, name)):
            return _line(os.path.join(root, name))
    with open(os.path.join(common, "packed-refs"), encoding="utf-8") as file:
        return next((line.split(" ", 1)[0] for line in file if line.rstrip("\n").endswith(f" {name}")), None)


def _line(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.readline(4096).strip()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type
