"""Free memory is what the machine has left, or the container, whichever is less."""

from __future__ import annotations

from pathlib import Path

import pytest

from hftrain.hardware import host_memory
from hftrain.hardware.host_memory import free_host_bytes

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000 kB\nMemAvailable:    8000000 kB\n"


def machine(folder: Path, monkeypatch: pytest.MonkeyPatch, meminfo: str, **group: str) -> None:
    (folder / "meminfo").write_text(meminfo)
    for name, text in group.items():
        (folder / name.replace("__", ".")).write_text(text)
    monkeypatch.setattr(host_memory, "_MEMINFO", folder / "meminfo")
    files = (str(folder), "memory.max", "memory.current", "inactive_file")
    monkeypatch.setattr(host_memory, "_CGROUP_FILES", (files,))


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ({}, 8_000_000 * 1024),
        ({"memory__max": "max\n", "memory__current": "5\n"}, 8_000_000 * 1024),
        ({"memory__max": "1000\n", "memory__current": "400\n"}, 600),
        ({"memory__max": "1000\n", "memory__current": "900\n", "memory__stat": "anon 600\ninactive_file 300\n"}, 400),
        ({"memory__max": "1000\n", "memory__current": "1000\n"}, 1),
    ],
)
def test_a_containers_limit_counts_and_what_it_could_give_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: dict[str, str], expected: int
) -> None:
    machine(tmp_path, monkeypatch, MEMINFO, **group)
    assert free_host_bytes() == expected


def test_a_system_that_says_nothing_gives_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path, monkeypatch, "")
    assert free_host_bytes() is None


def test_this_machine_has_some() -> None:
    free = free_host_bytes()
    assert free is None or free > 0
