"""Writes what there is to look at as the files that trackers take: PNG, histograms as ``.npz``, text as UTF-8."""

from __future__ import annotations

import os
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from hftrain.errors import ConfigurationError

NUM_BINS = 64
_PNG = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {1: 0, 3: 2, 4: 6}
"""Channels -> what PNG calls them: grey, red-green-blue, the same with transparency."""
_TAKEN = "a PIL image, a numpy array or tensor, a matplotlib figure, or the path of an image file"


def write_image(value: Any, path: str) -> int:
    """Write an image as PNG; return how many of its values were not finite, and are black.

    Args:
        value: a PIL image; an array or tensor of shape (height, width), (height, width, channels) or (channels,
            height, width), of 1, 3 or 4 channels, floats in [0, 1] or integers in [0, 255]; a matplotlib figure; or
            the path of an image file. Where both orders fit, a tensor has its channels first and an array last.
        path: of the file that is written.

    Raises:
        ConfigurationError: it is nothing of that.
    """
    if isinstance(value, (str, os.PathLike)):
        _copy_image(os.fspath(value), path)
    elif hasattr(value, "savefig"):
        value.savefig(path, format="png")
    elif hasattr(value, "save") and hasattr(value, "mode"):
        _save_pil(value, path)
    elif hasattr(value, "__array__"):
        pixels, num_black = _pixels(_on_host(value), has_channels_first=hasattr(value, "detach"))
        with open(path, "wb") as file:
            file.write(_png(pixels))
        return num_black
    else:
        raise ConfigurationError(f"kind='image' takes {_TAKEN}; found {_found(value)}.")
    return 0


def write_histogram(value: Any, path: str) -> int:
    """Write how the values are distributed; return how many were not finite, and are left out.

    The file is an ``.npz`` with ``counts`` of `NUM_BINS` bins and their ``edges``, one more.

    Args:
        value: an array, a tensor, or (nested) lists of numbers.
        path: of the file that is written.

    Raises:
        ConfigurationError: it holds something else than numbers.
    """
    try:
        array = _on_host(value)
        if array.dtype.kind not in "biufO":
            raise TypeError(f"an array of {array.dtype}")
        numbers = array.astype(np.float64).ravel()
    except (TypeError, ValueError, RuntimeError) as error:  # the last is torch's, of a list of tensors with gradients
        raise ConfigurationError(
            f"kind='histogram' takes an array, a tensor or a list of numbers; found {_found(value)} ({error})."
        ) from error
    finite = numbers[np.isfinite(numbers)]
    counts, edges = np.histogram(finite, bins=NUM_BINS, range=_range(finite))
    with open(path, "wb") as file:
        np.savez(file, counts=counts, edges=edges)
    return int(numbers.size - finite.size)


def write_text(value: Any, path: str) -> int:
    """Write a text; return 0.

    Raises:
        ConfigurationError: it is no text.
    """
    if not isinstance(value, str):
        raise ConfigurationError(f"kind='text' takes a str; found {_found(value)}. Pass str(value).")
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write(value)
    return 0


# ---- arrays ---------------------------------------------------------------------------------------------------------


def _on_host(value: Any) -> npt.NDArray[Any]:
    """Return the value as an array; a tensor is copied from its device, which waits for it."""
    if hasattr(value, "detach"):
        value = value.detach()
        if value.is_floating_point():
            value = value.float()  # numpy has no bfloat16
        value = value.cpu().numpy()
    return np.asarray(value)


def _pixels(array: npt.NDArray[Any], *, has_channels_first: bool) -> tuple[npt.NDArray[np.uint8], int]:
    """Return (height, width, channels), and how many values were not finite."""
    ordered = _channels_last(array, has_channels_first=has_channels_first)
    if ordered.dtype == np.bool_:
        return ordered.astype(np.uint8) * np.uint8(255), 0
    if ordered.dtype.kind not in "iuf":
        raise ConfigurationError(f"kind='image' takes numbers; found an array of {array.dtype}.")
    is_finite = np.isfinite(ordered)
    values = np.where(is_finite, ordered, 0)
    is_float, low, high = ordered.dtype.kind == "f", values.min(), values.max()
    most = 1 if is_float else 255
    slack = 1e-3 if is_float else 0
    if low < -slack or high > most + slack:
        kind = "floats in [0, 1]" if is_float else "integers in [0, 255]"
        raise ConfigurationError(
            f"kind='image' takes {kind}; found values from {low:g} to {high:g}. Scale it: (x - x.min()) / (x.max() - "
            "x.min())."
        )
    scaled = values * 255.0 + 0.5 if is_float else values
    return np.clip(scaled, 0, 255).astype(np.uint8), int(is_finite.size - np.count_nonzero(is_finite))


def _channels_last(array: npt.NDArray[Any], *, has_channels_first: bool) -> npt.NDArray[Any]:
    shape = array.shape
    if array.ndim == 2 and array.size:
        return array[:, :, None]
    if array.ndim == 3 and array.size:
        is_first, is_last = shape[0] in _COLOR_TYPES, shape[2] in _COLOR_TYPES
        if is_first and (has_channels_first or not is_last):
            return array.transpose(1, 2, 0)
        if is_last:
            return array
    advice = "Pass one image of the batch, or a grid of them." if array.ndim == 4 else ""
    raise ConfigurationError(
        "kind='image' takes an array of shape (height, width), (height, width, channels) or (channels, height, "
        f"width), with 1, 3 or 4 channels; found {shape}. {advice}".rstrip()
    )


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return the file of an image, as the PNG specification (ISO/IEC 15948) has it."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    rows = np.zeros((height, 1 + width * channels), dtype=np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = pixels.reshape(height, -1)
    data = zlib.compress(rows.tobytes(), 6)
    return _PNG + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _range(numbers: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return where the bins begin and end: wide enough to be told apart, and not so wide that it overflows."""
    if not numbers.size:
        return 0.0, 1.0
    most = 0.25 * np.finfo(np.float64).max
    low, high = max(float(numbers.min()), -most), min(float(numbers.max()), most)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    pad = max(0.5, 1e-6 * abs(high))
    return low - pad, high + pad


# ---- pictures of other libraries ------------------------------------------------------------------------------------


def _copy_image(source: str, path: str) -> None:
    try:
        with open(source, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ConfigurationError(f"kind='image' got the path {source!r}, which cannot be read: {error}.") from error
    if content.startswith(_PNG):
        with open(path, "wb") as file:
            file.write(content)
        return
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigurationError(
            f"{source} is no PNG, and turning it into one needs pillow. Run: pip install pillow"
        ) from error
    try:
        with Image.open(source) as image:
            image.load()
    except OSError as error:  # not an image, or a torn one
        raise ConfigurationError(f"kind='image' got the path {source!r}, which pillow cannot read: {error}.") from error
    _save_pil(image, path)


def _save_pil(image: Any, path: str) -> None:
    fits = image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
    (image if fits else image.convert("RGB")).save(path, format="PNG")


def _found(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}" if isinstance(value, (str, int, float)) else repr(type(value))
