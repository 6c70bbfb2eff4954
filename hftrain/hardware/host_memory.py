"""How much memory of the host a process may still take."""

from __future__ import annotations

import re
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP_FILES = (  # version 2, then version 1: limit, usage, and the key of what the kernel would give back
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_host_bytes() -> int | None:
    """Return bytes that can be taken without swapping, within a container's limit; None where nothing says it."""
    counts = [count for count in (_of_machine(_MEMINFO), *(_of_group(*names) for names in _CGROUP_FILES)) if count]
    return min(counts, default=None)


def _of_machine(path: Path) -> int | None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text(path), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _of_group(folder: str, limit: str, usage: str, reclaimable: str) -> int | None:
    most, used = _text(Path(folder, limit)).strip(), _text(Path(folder, usage)).strip()
    if not most.isdecimal() or not used.isdecimal():  # no such group, or "max": no limit
        return None
    cached = re.search(rf"^{reclaimable} (\d+)$", _text(Path(folder, "memory.stat")), re.MULTILINE)
    return max(1, int(most) - int(used) + (int(cached[1]) if cached else 0))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
