"""The manifest and JSON, read as if the worst person wrote them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from hftrain.checkpoint.layout import (
    FileRecord,
    Manifest,
    NewerFormatError,
    checked_path,
    load_json,
    new_run_id,
    parse_step,
    size_text,
)
from hftrain.errors import CheckpointError, TornCheckpointError, UnsafeCheckpointError

MANIFEST = Manifest(
    run_id="20260102-030405-abcdef",
    step=10,
    epoch=0.1,
    samples=40,
    world_size=2,
    created="2026-01-02T03:04:05.000006Z",
    versions={"torch": "2"},
    files={"model.safetensors": FileRecord(num_bytes=3, sha256="0" * 64)},
)


def changed(**changes: Any) -> bytes:
    return json.dumps(json.loads(MANIFEST.to_json()) | changes).encode()


def test_a_manifest_comes_back_as_it_was() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


def test_a_manifest_has_the_documented_fields() -> None:
    document = json.loads(MANIFEST.to_json())
    names = ["format", "run_id", "step", "epoch", "samples", "world_size", "created", "versions", "files"]
    assert list(document) == names
    assert document["format"] == 1
    assert document["files"] == {"model.safetensors": {"bytes": 3, "sha256": "0" * 64}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step", float("nan")),
        ("step", -1),
        ("step", True),
        ("step", 2**63),
        ("samples", "4"),
        ("epoch", float("inf")),
        ("epoch", None),
        ("epoch", 10**400),
        ("world_size", 0),
        ("run_id", ""),
        ("run_id", 3),
        ("run_id", "../../elsewhere"),
        ("run_id", ".hidden"),
        ("run_id", "x" * 201),
        ("created", "yesterday"),
        ("created", "9999-12-31T23:59:59Z"),
        ("versions", []),
        ("versions", {"torch": 2}),
        ("files", None),
        ("files", {"a": {"bytes": -1, "sha256": "0" * 64}}),
        ("files", {"a": {"bytes": 1, "sha256": "0"}}),
        ("files", {"a": 5}),
        ("format", 0),
        ("format", "1"),
    ],
)
def test_a_wrong_field_makes_a_manifest_torn(name: str, value: object) -> None:
    with pytest.raises(TornCheckpointError):
        Manifest.from_json(changed(**{name: value}))


def test_a_later_format_is_told_apart_from_a_torn_one() -> None:
    with pytest.raises(NewerFormatError, match="Update hftrain"):
        Manifest.from_json(changed(format=2))


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../a",
        "a/../../b",
        "",
        ".",
        "a//b",
        "a/",
        "C:a",
        "a\\b",
        "a\0b",
        "a\x9bb",
        "a\u202eb",
        "\ud800",
        "x" * 1001,
    ],
)
def test_a_path_that_is_not_plainly_inside_the_folder_is_unsafe(path: str) -> None:
    with pytest.raises(UnsafeCheckpointError):
        checked_path(path)
    with pytest.raises(UnsafeCheckpointError):
        Manifest.from_json(changed(files={path: {"bytes": 1, "sha256": "0" * 64}}))


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b"[" * 65 + b"]" * 65, b'{"a":' * 70 + b"1" + b"}" * 70], ids=["open", "list", "dict"]
)
def test_deep_json_is_refused(data: bytes) -> None:
    with pytest.raises(UnsafeCheckpointError, match="nested deeper"):
        load_json(data, name="x.json")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"1" * 5000, b"\0" * 50, "[]".encode("utf-16")])
def test_what_is_not_json_is_torn(data: bytes) -> None:
    with pytest.raises(TornCheckpointError, match=r"x\.json is not valid JSON"):
        load_json(data, name="x.json")


def test_a_manifest_cannot_list_itself() -> None:
    with pytest.raises(UnsafeCheckpointError, match="lists itself"):
        Manifest.from_json(changed(files={"MANIFEST.json": {"bytes": 1, "sha256": "0" * 64}}))


def test_json_of_too_many_values_is_refused_unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hftrain.checkpoint.layout.MAX_JSON_ITEMS", 10)
    assert load_json(b"[1,2,3,4,5,6,7,8,9,0]", name="x.json")[-1] == 0
    with pytest.raises(UnsafeCheckpointError, match="more than 10 values"):
        load_json(b"[[],[],[],[],[],[]]", name="x.json")


def test_huge_json_is_refused_unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hftrain.checkpoint.layout.MAX_JSON_BYTES", 10)
    with pytest.raises(CheckpointError, match="has 11 bytes"):
        load_json(b" " * 11, name="x.json")


@pytest.mark.parametrize(
    ("name", "step"),
    [("checkpoint-12", 12), ("checkpoint-", None), ("checkpoint-1b", None), ("my-checkpoint-1", None), ("run", None)],
)
def test_a_step_is_read_from_a_checkpoints_name_only(name: str, step: int | None) -> None:
    assert parse_step(name) == step


def test_run_ids_tell_the_time_and_differ() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    first, second = new_run_id(now), new_run_id(now)
    assert first.startswith("20260102-030405-")
    assert len(first) == 22
    assert first != second


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (1_234_567_890, "1.2 GB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_sizes_have_the_unit_that_fits(num_bytes: int, text: str) -> None:
    assert size_text(num_bytes) == text
