"""How a comparison of two checkpoints is shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hftrain.checkpoint.compare import Comparison, PartDifference, TensorDifference
from hftrain.cli.output import table


def comparison_document(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON, with every difference."""
    return {
        "a": found.a,
        "b": found.b,
        "same": found.is_same,
        "facts": {name: {"a": _plain(one), "b": _plain(other)} for name, (one, other) in found.facts.items()},
        "parts": [
            {
                "name": part.name,
                "same": part.is_same,
                "num_tensors": part.num_tensors,
                "tensors": [vars(tensor) for tensor in part.tensors],
                "values": [vars(value) for value in part.values],
            }
            for part in found.parts
        ],
    }


def comparison_text(found: Comparison, *, limit: int | None) -> str:
    """The comparison to be read: the facts, a line for each part, then at most ``limit`` differences of each part."""
    facts = [("", "A", "B"), ("path", found.a, found.b)]
    facts += [(name, _fact(one), _fact(other)) for name, (one, other) in found.facts.items() if name != "versions"]
    pieces = [table(facts[0], facts[1:]), "", _summary(found.parts)]
    pieces += [_details(part, limit) for part in found.parts if not part.is_same]
    num_differing = sum(not part.is_same for part in found.parts)
    verdict = f"{num_differing} of {len(found.parts)} parts differ." if num_differing else "The same, bit for bit."
    return "\n".join([*pieces, "", verdict])


def _summary(parts: Sequence[PartDifference]) -> str:
    rows = [
        (
            part.name,
            str(part.num_tensors or "-"),
            str(len(part.tensors)) if part.num_tensors else "-",
            _largest(part.tensors),
            str(len(part.values)),
        )
        for part in parts
    ]
    header = ("part", "tensors", "differ", "largest |A-B|", "values differ")
    return table(header, rows, right=header[1:])


def _largest(tensors: Sequence[TensorDifference]) -> str:
    numbers = [tensor.largest for tensor in tensors if tensor.largest is not None]
    if any(math.isnan(number) for number in numbers):
        return "nan"
    return f"{max(numbers):.3g}" if numbers else "-"


def _details(part: PartDifference, limit: int | None) -> str:
    lines = [_tensor_line(tensor) for tensor in part.tensors[:limit]]
    lines += [f"{value.path or 'all of it'}: {value.a} -> {value.b}" for value in part.values[:limit]]
    left = len(part.tensors) + len(part.values) - len(lines)
    lines += [f"and {left} more (--all shows them)"] if left else []
    return "\n".join(["", part.name, *(f"  {line}" for line in lines)])


def _tensor_line(tensor: TensorDifference) -> str:
    if tensor.largest is None:
        return f"{tensor.name}: {tensor.a} -> {tensor.b}"
    share = f"{tensor.num_changed} of {tensor.num_elements}"
    return f"{tensor.name}: {tensor.a}, {share} numbers differ, by {tensor.largest:.3g} at most"


def _fact(value: Any) -> str:
    return "-" if value is None else str(value)


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "items") else value
