"""What a storage that asks again makes of one that fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hftrain.checkpoint import patience
from hftrain.checkpoint.patience import driver_errors, is_transient
from hftrain.checkpoint.storage import Repeatable, storage_for
from tests.checkpoint.failing import FailingFileSystem, Faults, store

DATA = bytes(range(256)) * 8


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "WAITS_S", (0.001, 0.002, 0.004, 0.008))
    monkeypatch.setattr(patience, "ARRIVAL_WAITS_S", (0.0, 0.02, 0.06))


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_faults(**values: Any) -> Faults:
        monkeypatch.setattr(FailingFileSystem, "faults", Faults(**values))
        return FailingFileSystem.faults

    return set_faults


@pytest.fixture
def path(tmp_path: Path) -> str:
    return f"failing://{tmp_path}/run/file"


def read(path: str) -> bytes:
    with storage_for(path).read(path) as file:
        return file.read()


@pytest.mark.parametrize("fault", ["drop", "truncate", "refuse"])
def test_a_write_that_did_not_arrive_is_made_again(path: str, faults: Any, fault: str) -> None:
    struck = faults(**{fault: 1.0}, at_most=3)
    written = storage_for(path).write(path, [DATA[:1000], DATA[1000:]])
    assert (written.num_bytes, struck.num_faults) == (len(DATA), 3)
    assert read(path) == DATA


@pytest.mark.parametrize("fault", ["drop", "truncate", "refuse"])
def test_a_write_that_never_arrives_is_an_error_with_its_cause(path: str, faults: Any, fault: str) -> None:
    faults(**{fault: 1.0})
    with pytest.raises(OSError, match="tried 5 times") as caught:
        storage_for(path).write(path, [DATA])
    assert isinstance(caught.value.__cause__, OSError)
    assert path in str(caught.value)


def test_what_is_seen_later_is_waited_for_and_not_written_twice(path: str, faults: Any) -> None:
    late = faults(lag_s=0.03)
    storage_for(path).write(path, [DATA])
    assert len(late.uploads) == 1
    assert read(path) == DATA


def test_a_list_a_read_and_a_delete_are_tried_again(path: str, faults: Any) -> None:
    storage = storage_for(path)
    store(path.removeprefix("failing://"), DATA)
    for ask in (lambda: storage.list(path.rpartition("/")[0]), lambda: read(path), lambda: storage.delete(path)):
        faults(refuse=1.0, at_most=4)
        ask()
    assert storage.list(path.rpartition("/")[0]) == ()


def test_a_read_goes_on_at_its_place(path: str, faults: Any) -> None:
    storage = storage_for(path)
    storage.write(path, [DATA * 2000])
    with storage.read(path) as file:
        first = file.read(1500)
        faults(refuse=0.3, at_most=8)
        rest = file.read()
        file.seek(-3, 2)
        assert first + rest == DATA * 2000
        assert (file.read(), file.tell()) == (DATA[-3:], len(DATA) * 2000)


@pytest.mark.parametrize("kind", [PermissionError, FileNotFoundError])
def test_what_will_not_be_otherwise_a_second_later_is_not_tried_again(path: str, faults: Any, kind: Any) -> None:
    struck = faults(refuse=1.0, error=kind)
    with pytest.raises(kind):
        storage_for(path).write(path, [DATA])
    assert struck.num_faults == 1


def test_pieces_that_come_once_are_not_written_again_by_half(path: str, faults: Any) -> None:
    faults(drop=1.0, at_most=1)
    with pytest.raises(OSError, match="is not there"):
        storage_for(path).write(path, iter([DATA]))
    storage_for(path).write(path, Repeatable(lambda: iter([DATA])))
    assert read(path) == DATA


@pytest.mark.parametrize("scheme", ["failing", "memory"])
def test_an_upload_whose_source_fails_is_not_completed(tmp_path: Path, faults: Any, scheme: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield DATA
        raise KeyError("the source")

    ups = faults()
    path = f"{scheme}://{tmp_path}/run/file"
    with pytest.raises(KeyError, match="the source"):
        storage_for(path).write(path, Repeatable(pieces))
    assert ups.uploads == []


def test_errors_of_a_drivers_library_are_errors_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    class EndpointConnectionError(Exception): ...

    class NoCredentialsError(Exception): ...

    class HttpError(Exception):
        code = 503

    for kind, is_outage in ((EndpointConnectionError, True), (NoCredentialsError, False), (HttpError, True)):
        with pytest.raises(OSError, match=kind.__name__) as caught, driver_errors("s3://b/x"):
            raise kind
        assert is_transient(caught.value) is is_outage
