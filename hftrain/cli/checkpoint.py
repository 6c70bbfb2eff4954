"""``hftrain checkpoint``: list, verify, compare, protect and export checkpoints.

torch is imported by ``diff`` and ``export`` alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from hftrain.checkpoint.catalog import CheckpointFolder, Status
from hftrain.checkpoint.examine import Fault, best_of, checkpoints_at, faults, protect, unlisted_files
from hftrain.checkpoint.layout import INCOMPLETE, parse_time, size_text
from hftrain.checkpoint.storage import plain_path, storage_for
from hftrain.cli.output import Output, counted, table
from hftrain.errors import CheckpointNotFoundError

TARGETS = ("transformers",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser one subparser for each of the five."""
    verbs = parser.add_subparsers(required=True, metavar="list|verify|diff|protect|export")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="one JSON document on stdout")

    def verb(name: str, call: Callable[[argparse.Namespace, Output], int], text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, parents=[as_json], help=text, description=text[0].upper() + text[1:] + ".")
        made.set_defaults(call=call)
        return made

    listing = verb("list", _list, "show the checkpoints in an output_dir, the oldest commit first")
    listing.add_argument("dir", metavar="DIR", help="an output_dir or a checkpoint; a path or a URL")
    verifying = verb("verify", _verify, "read every file and compare it with its checksum; 1 if any differs")
    verifying.add_argument("path", metavar="PATH", help="a checkpoint, or an output_dir for all in it")
    comparing = verb("diff", _diff, "show in what two checkpoints differ; holds one part of both in memory")
    comparing.add_argument("a", metavar="A", help="a checkpoint")
    comparing.add_argument("b", metavar="B", help="another")
    comparing.add_argument("--all", action="store_true", help="show every difference, not the ten largest of a part")
    comparing.add_argument("--exit-code", action="store_true", help="exit with 1 if they differ")
    protecting = verb("protect", _protect, "keep a checkpoint from ever being deleted by a run")
    protecting.add_argument("path", metavar="PATH", help="a checkpoint")
    protecting.add_argument("--undo", action="store_true", help="let runs delete it again")
    exporting = verb("export", _export, "write a checkpoint as another trainer would have, to be resumed there")
    exporting.add_argument("path", metavar="PATH", help="a checkpoint")
    exporting.add_argument("--to", required=True, choices=TARGETS, help="who shall read it")
    exporting.add_argument("-o", "--output", required=True, metavar="DIR", help="a new folder")


def run(options: argparse.Namespace, output: Output) -> int:
    """Do what was asked; return the exit code."""
    code: int = options.call(options, output)
    return code


# ---- list -----------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace, output: Output) -> int:
    storage = storage_for(plain_path(options.dir))
    folders = checkpoints_at(options.dir, storage)
    best = best_of(storage, folders)
    rows = [_described(folder, best) for folder in folders]
    output.result({"dir": plain_path(options.dir), "checkpoints": rows}, _listing(options.dir, folders, rows))
    return 0


def _described(folder: CheckpointFolder, best: str | None) -> dict[str, Any]:
    manifest = folder.manifest
    num_bytes = manifest.total_bytes if manifest else sum(entry.num_bytes for entry in folder.files.values())
    return {
        "name": folder.name,
        "path": folder.path,
        "status": folder.status.value,
        "reason": folder.reason,
        "step": folder.step,
        "epoch": manifest.epoch if manifest else None,
        "samples": manifest.samples if manifest else None,
        "created": manifest.created if manifest else None,
        "run_id": manifest.run_id if manifest else None,
        "world_size": manifest.world_size if manifest else None,
        "versions": dict(manifest.versions) if manifest else {},
        "files": len(manifest.files if manifest else folder.files),
        "bytes": num_bytes,
        "best": folder.name == best,
        "protected": folder.is_protected,
    }


def _listing(path: str, folders: Sequence[CheckpointFolder], rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return f"{path} holds no checkpoints."
    header = ("checkpoint", "step", "epoch", "status", "size", "saved (UTC)", "run", "")
    cells = [
        (
            row["name"],
            _or_dash(row["step"]),
            "-" if row["epoch"] is None else f"{row['epoch']:.4g}",
            row["status"],
            size_text(row["bytes"]),
            f"{parse_time(row['created']):%Y-%m-%d %H:%M:%S}" if row["created"] else "-",
            _or_dash(row["run_id"]),
            ", ".join(mark for mark in ("best", "protected") if row[mark]),
        )
        for row in rows
    ]
    reasons = [_reason(folder) for folder in folders if folder.status is not Status.COMMITTED]
    total = f"{counted(len(rows), 'checkpoint')}, {size_text(sum(row['bytes'] for row in rows))}"
    return "\n".join([table(header, cells, right=("step", "epoch", "size")), *reasons, total])


def _reason(folder: CheckpointFolder) -> str:
    pieces = (f"{folder.name}, {folder.status.value}:", folder.reason, _what_follows(folder))
    return " ".join(piece for piece in pieces if piece)


def _what_follows(folder: CheckpointFolder) -> str:
    if folder.status is Status.UNVERIFIABLE:
        return "Another trainer wrote it: it can be resumed, and nothing tells whether it is whole."
    if folder.status is Status.NEWER:
        return "This version of hftrain leaves it alone."
    if folder.is_protected:
        return "A resume passes it over, and no run removes it, since it is protected."
    if INCOMPLETE in folder.files or not folder.files:
        return "Unless a run is writing it now: a resume passes it over, and the next commit there removes it."
    if folder.manifest is not None:
        return "A resume passes it over, and the next commit of its run removes it."
    return "A resume passes it over, and no run removes it: nothing tells whose it is."


def _or_dash(value: Any) -> str:
    return "-" if value is None else str(value)


# ---- verify ---------------------------------------------------------------------------------------------------------


def _verify(options: argparse.Namespace, output: Output) -> int:
    storage = storage_for(plain_path(options.path))
    results = []
    for folder in checkpoints_at(options.path, storage):
        if sys.stderr.isatty() and folder.manifest is not None:
            output.message(f"reading {folder.path} ({size_text(folder.manifest.total_bytes)})")
        started = time.monotonic()
        results.append(_verdict(folder, list(faults(storage, folder)), time.monotonic() - started))
    if not results:
        raise CheckpointNotFoundError(f"{options.path} holds no checkpoints.")
    is_good = all(result["good"] for result in results)
    output.result({"good": is_good, "checkpoints": results}, "\n".join(map(_verdict_text, results)))
    return 0 if is_good else 1


def _verdict(folder: CheckpointFolder, found: Sequence[Fault], seconds: float) -> dict[str, Any]:
    return {
        "path": folder.path,
        "status": folder.status.value,
        "good": not found,
        "files": len(folder.manifest.files) if folder.manifest else 0,
        "bytes": folder.manifest.total_bytes if folder.manifest else 0,
        "seconds": round(seconds, 3),
        "faults": [{"file": fault.file, "problem": fault.problem} for fault in found],
        "unlisted": unlisted_files(folder),
    }


def _verdict_text(result: dict[str, Any]) -> str:
    what = f"{counted(result['files'], 'file')}, {size_text(result['bytes'])}"
    if result["good"]:
        lines = [f"good  {result['path']}: {what}, every byte as it was written"]
    else:
        lines = [f"BAD   {result['path']} ({result['status']})"]
        lines += [
            f"      {fault['file']} {fault['problem']}".replace("       ", "      ") for fault in result["faults"]
        ]
    if result["unlisted"]:
        lines.append(f"      not part of it, and never read: {', '.join(result['unlisted'])}")
    return "\n".join(lines)


# ---- diff, protect, export ------------------------------------------------------------------------------------------


def _diff(options: argparse.Namespace, output: Output) -> int:
    from hftrain.checkpoint.compare import compare
    from hftrain.cli.differences import comparison_document, comparison_text

    found = compare(options.a, options.b)
    limit = None if options.all else 10
    output.result(comparison_document(found), comparison_text(found, limit=limit))
    return 1 if options.exit_code and not found.is_same else 0


def _protect(options: argparse.Namespace, output: Output) -> int:
    path = protect(options.path, is_protected=not options.undo)
    text = "is no longer protected" if options.undo else "is protected: no run deletes it"
    output.result({"path": path, "protected": not options.undo}, f"{path} {text}.")
    return 0


def _export(options: argparse.Namespace, output: Output) -> int:
    from hftrain.checkpoint.export import export_to_transformers

    made = export_to_transformers(options.path, options.output)
    for note in made.notes:
        output.message(note)
    size = size_text(sum(made.files.values()))
    rows = [(name, size_text(num_bytes)) for name, num_bytes in made.files.items()]
    text = f"{table(('file', 'size'), rows, right=('size',))}\n{made.folder}: {counted(len(rows), 'file')}, {size}"
    output.result({"folder": made.folder, "files": made.files, "notes": made.notes}, text)
    return 0
