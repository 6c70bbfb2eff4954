"""A file of torch.save from a stranger: no more is built than it has bytes for, and nothing in it is called."""

from __future__ import annotations

import io
import random
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

from hftrain.checkpoint import pickled as module
from hftrain.checkpoint.pickled import load_pickled
from hftrain.errors import CheckpointError, TornCheckpointError, UnsafeCheckpointError
from tests.checkpoint.hostile import archive, call, name, number, numbers, pickled, storage, table, tensor, text


def load(data: bytes) -> Any:
    return load_pickled(io.BytesIO(data), len(data), name="x.pt")


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_plain_data_comes_back_as_it_was() -> None:
    tree = {"a": [1, (2.5, None, True, "x")], "o": OrderedDict(b=1, a=2), "c": Counter({3: 2}), 4: {}, "big": 1 << 80}
    back = load(saved(tree))
    assert back == tree
    assert [type(back[key]) for key in "oc"] == [OrderedDict, Counter]


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.complex128]
)
def test_tensors_come_back_to_the_bit(dtype: torch.dtype) -> None:
    base = torch.arange(12).reshape(3, 4).to(dtype)
    back = load(saved({"whole": base, "view": base.t()[1:], "empty": base[:0], "one": base[1, 1], "again": base}))
    assert torch.equal(back["view"], base.t()[1:])
    assert (back["empty"].shape, back["one"].dtype, back["one"].tolist()) == ((0, 4), dtype, base[1, 1].tolist())
    assert back["whole"].data_ptr() == back["again"].data_ptr()


@pytest.mark.parametrize("code", ["u4", "i8", "f8", ">f4", "b1"])
def test_arrays_come_back_to_the_bit(code: str) -> None:
    array = np.asfortranarray(np.arange(6).reshape(2, 3).astype(code))
    back = load(saved(array))
    assert back.dtype == array.dtype.newbyteorder("=")
    assert back.flags.writeable
    assert back.tolist() == array.tolist()


def test_the_random_states_of_python_and_numpy_come_back() -> None:
    back = load(saved({"python": random.getstate(), "numpy": np.random.get_state()}))
    assert back["python"] == random.getstate()
    assert back["numpy"][1].tolist() == np.random.get_state()[1].tolist()


ARRAY = name("numpy._core.multiarray", "_reconstruct"), name("numpy", "ndarray")
UINT = call(name("numpy", "dtype"), text("u4"), b"\x89", b"\x88")
BYTES = call(name("_codecs", "encode"), text("abcd"), text("latin1")).replace(b"(", b"").replace(b"tR", b"\x86R")
LAUGHS = b"](K\x01K\x01e" + b"".join(b"q%c](h%ch%ch%ch%ch%ch%ch%ch%ce" % ((i,) * 9) for i in range(20))

HOSTILE = {
    "a storage larger than its record": pickled(table(a=tensor(storage(count=1 << 40)))),
    "a storage smaller than its record": pickled(table(a=tensor(storage(count=1)))),
    "a storage of no count": pickled(table(a=tensor(storage().replace(number(2), text("2"))))),
    "a record that is not there": pickled(table(a=tensor(storage("1")))),
    "a record outside": pickled(table(a=tensor(storage("../data.pkl", count=10)))),
    "a tensor larger than its storage": pickled(table(a=tensor(storage(), size=(1 << 40,)))),
    "a tensor behind its storage": pickled(table(a=tensor(storage(), offset=1 << 40))),
    "a tensor before its storage": pickled(table(a=tensor(storage(), offset=-1))),
    "a tensor that repeats its memory": pickled(table(a=tensor(storage(), size=(1 << 40,), stride=(0,)))),
    "a tensor that overflows": pickled(table(a=tensor(storage(), size=(1 << 62, 1 << 62), stride=(1, 1)))),
    "a tensor thrown away": pickled(b"}", tensor(storage(), size=(1 << 40,)), b"K\x01s"),
    "an array of any size": pickled(call(*ARRAY, numbers(1 << 40), text("b"))),
    "an array made at once": pickled(call(name("numpy", "ndarray"), numbers(1 << 40))),
    "an array larger than its bytes": pickled(
        call(*ARRAY, numbers(0), text("b")), b"(", number(1), numbers(1 << 40), UINT, b"\x89", BYTES, b"tb"
    ),
    "an array of objects": pickled(
        call(*ARRAY, numbers(0), text("b")),
        b"(" + number(1) + numbers(1) + call(name("numpy", "dtype"), text("O8"), b"\x89", b"\x88") + b"\x89]tb",
    ),
    "a bytearray of any size": pickled(call(name("builtins", "bytearray"), number(1 << 40))),
    "a tensor without a storage": pickled(call(name("torch", "FloatTensor"), number(1 << 40))),
    "a storage without a record": pickled(call(name("torch.storage", "UntypedStorage"), number(1 << 40))),
    "a list in itself": pickled(b"]q\x00h\x00a"),
    "lists of lists of lists": pickled(LAUGHS),
    "a text encoded a million times": pickled(
        text("x" * 1000), b"q\x00](", name("_codecs", "encode"), b"q\x01", text("latin1"), b"q\x02\x86R",
        b"h\x01h\x00h\x02\x86R" * 1000, b"e",
    ),
    "an ordered dict made of another": pickled(b"](", name("collections", "OrderedDict"), b"}\x85R", b"e"),
    "a counter in a long pickle": pickled(text("x" * 9000), name("collections", "Counter"), b"}\x85R\x86"),
    "many states": pickled(text("x" * 100_000), b"0", name("collections", "OrderedDict"), b")R", b"}b" * 2000),
    "a function": pickled(call(name("os", "getcwd"))),
    "a function of torch": pickled(call(name("torch.hub", "load"), text("x"), text("y"))),
    "a module that exists under two names": pickled(call(name("__builtin__", "eval"), text("1"))),
    "an operation that calls": b"\x80\x02" + b"(ios\ngetcwd\n.",
    "an extension": pickled(b"\x82\x01"),
    "no end": b"\x80\x02}",
    "nothing": b"",
    "no pickle": b"{}",
    "surrogates": pickled(name("o\udc80s".encode("utf-8", "surrogatepass").decode("latin1"), "x")),
}  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_no_trainer_writes_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"^x\.pt ") as caught:
        load(archive(data))
    assert len(str(caught.value)) < 1000


def test_a_pickle_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PICKLE_BYTES", 100)
    with pytest.raises(UnsafeCheckpointError, match="at most 100 are read"):
        load(archive(pickled(text("x" * 101))))


def test_a_list_of_entries_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DIRECTORY_BYTES", 100)
    for data in (archive(pickled(b"N")), saved(None)):  # the second says it in 64 bits
        with pytest.raises(UnsafeCheckpointError, match="more entries"):
            load(data)


def test_the_bytes_of_another_machines_order_are_refused() -> None:
    with pytest.raises(UnsafeCheckpointError, match="big-endian"):
        load(archive(pickled(b"N"), {"byteorder": b"big"}))


def test_two_entries_of_one_name_are_refused() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = archive(pickled(b"N"), {"data.pkl": b"N."})
    with pytest.raises(UnsafeCheckpointError, match="two entries"):
        load(data)


@pytest.mark.parametrize("change", [lambda data: data + b"x", lambda data: data[:-1]])
def test_an_archive_that_does_not_end_at_its_end_is_torn(change: Any) -> None:
    with pytest.raises(TornCheckpointError, match="not a whole file"):
        load(change(archive(pickled(b"N"))))


def test_a_changed_byte_in_a_tensor_is_found() -> None:
    data = bytearray(saved({"a": torch.arange(1000.0)}))
    data[2000] ^= 1
    with pytest.raises(TornCheckpointError, match="CRC"):
        load(bytes(data))


def test_every_file_cut_short_or_changed_in_one_place_is_read_or_refused() -> None:
    whole = saved({"a": torch.arange(4.0), "b": [1, {"c": np.arange(3)}]})
    draw = random.Random(0)
    for _ in range(300):
        data = bytearray(whole)
        data[draw.randrange(len(data))] = draw.randrange(256)
        for variant in (bytes(data), whole[: draw.randrange(len(whole))]):
            try:
                load(variant)
            except CheckpointError as error:
                assert str(error).startswith("x.pt ")  # noqa: PT017


def test_what_the_process_allowed_is_allowed_again_afterwards() -> None:
    with torch.serialization.safe_globals([Counter]):
        load(saved([1]))
        assert Counter in torch.serialization.get_safe_globals()
