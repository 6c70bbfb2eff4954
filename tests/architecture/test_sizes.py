"""How large files and functions may get: where to stop and think. The numbers are changed in review, never dodged."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 50
TOLERANCE = 1.05  # the design says "~400" and "~50"

# Tables of data, excepted by name; each with its reason.
TABLES: dict[str, str] = {}


def sources() -> list[Path]:
    folders = ("hftrain", "plugins", "integrations", "examples")
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Every function with the number of its lines, the docstring left out: it is there to be read."""
    for node in ast.iter_child_nodes(tree):
        name = f"{prefix}{node.name}" if isinstance(node, ast.FunctionDef | ast.ClassDef) else prefix
        if isinstance(node, ast.FunctionDef):
            docstring = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
            yield name, lines(node) - (lines(docstring) if docstring else 0)
        yield from functions(node, prefix=f"{name}." if name else "")


def lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def fifteen_largest(sizes: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(sizes.items(), key=lambda item: -item[1])[:15]


def report(what: str, sizes: dict[str, int], limit: int, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"\n  {size:4d}  {name}" for name, size in fifteen_largest(sizes))
    with capsys.disabled():
        print(f"\nthe fifteen largest {what} (at most about {limit} lines):{rows}")


def test_no_file_is_too_large(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in sources()}
    report("files", sizes, MAX_FILE_LINES, capsys)
    too_large = {name: size for name, size in sizes.items() if size > MAX_FILE_LINES * TOLERANCE}
    assert sorted(too_large) == sorted(TABLES), too_large


def test_no_function_is_too_large(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {
        f"{file.relative_to(ROOT)}:{name}": size
        for file in sources()
        for name, size in functions(ast.parse(file.read_text()))
    }
    report("functions", sizes, MAX_FUNCTION_LINES, capsys)
    assert {name: size for name, size in sizes.items() if size > MAX_FUNCTION_LINES * TOLERANCE} == {}
