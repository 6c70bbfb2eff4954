"""What a pickle of ``torch.save`` may say, checked before it is unpickled.

The names alone do not suffice: to copy one long text a million times takes a few bytes in a pickle. So each name may
stand only where the picklers of torch and numpy put it.
"""

from __future__ import annotations

import pickletools
from typing import Any, cast

_PUTS = ("BINPUT", "LONG_BINPUT")
_GETS = ("BINGET", "LONG_BINGET")
_ORDERED = "collections OrderedDict"
_COUNTER = "collections Counter"
_ENCODE = "_codecs encode"

_REALS = ("Bool", "Byte", "Char", "Short", "Int", "Long", "Half", "BFloat16", "Float", "Double")
_STORAGES = (*_REALS, "ComplexFloat", "ComplexDouble")
NAMES = frozenset(
    {
        _ORDERED,
        _COUNTER,
        _ENCODE,  # numpy's bytes
        "torch._utils _rebuild_tensor_v2",
        "numpy.core.multiarray _reconstruct",
        "numpy._core.multiarray _reconstruct",
        "numpy ndarray",
        "numpy dtype",
    }
    | {f"torch {kind}Storage" for kind in _STORAGES}
)
MAX_BYTES_WITH_COUNTER = 8192
"""A schedule's milestones: each Counter is a copy of what it is made from."""
MAX_STATE_BYTES = 64 << 20
"""Setting a state copies it: bytes of the pickle times states set."""

_WHAT_FOLLOWS = {
    _ORDERED: (("EMPTY_TUPLE",), ("REDUCE",)),
    _ENCODE: (("BINUNICODE",), ("BINUNICODE", *_GETS), ("TUPLE2",), ("REDUCE",)),
}
"""Without the places in the memo; an OrderedDict is made empty, and what is encoded is a text of its own."""


def check_pickle(data: bytes) -> None:
    """Raise ValueError unless it is a pickle of tensors, numpy's arrays and plain data."""
    num_states = 0
    expected: list[tuple[str, ...]] = []
    name_at: dict[int, str] = {}
    last_name: str | None = None
    for operation, argument, _ in pickletools.genops(data):
        if operation.name in _PUTS:
            _note_place(name_at, cast(int, argument), last_name)
            continue
        is_inside = bool(expected)
        last_name = _name_of(operation.name, argument, name_at, len(data))
        if is_inside and (last_name is not None or operation.name not in expected.pop(0)):
            raise ValueError(f"{operation.name} stands where no pickle of torch.save has it")
        if last_name is not None:
            expected = list(_WHAT_FOLLOWS.get(last_name, ()))
        num_states += operation.name == "BUILD"
    if num_states * len(data) > MAX_STATE_BYTES:
        raise ValueError(f"it sets {num_states} states")


def _note_place(name_at: dict[int, str], place: int, name: str | None) -> None:
    if name is not None:
        name_at[place] = name
    elif place in name_at:
        raise ValueError("it puts something else in the place of a name")


def _name_of(operation: str, argument: Any, name_at: dict[int, str], num_bytes: int) -> str | None:
    """The name that an operation puts on the stack, if it does."""
    if operation in _GETS:
        return name_at.get(argument)
    if operation != "GLOBAL":
        return None
    if argument not in NAMES:
        raise ValueError(f"it names {str(argument)[:100]!r}")
    if argument == _COUNTER and num_bytes > MAX_BYTES_WITH_COUNTER:
        raise ValueError(f"it has a Counter in {num_bytes} bytes")
    return str(argument)
