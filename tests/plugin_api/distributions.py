"""Distributions that tests install: folders with the metadata that pip would leave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

PLUGIN = """
from hftrain.plugin_api.tracker import Tracker

class Plugin(Tracker):
    api = 1
    requires = ()
    extra = ""
"""


def install(
    folder: Path,
    name: str,
    *,
    version: str = "1.0",
    plugins: Sequence[str] = (),
    code: str | None = None,
    metadata: Sequence[str] = (),
    group: str = "hftrain.trackers",
) -> None:
    """Write a distribution into a folder that is on ``sys.path``.

    Args:
        folder: where.
        name: of the distribution; its module is called the same with ``_``.
        version: of the distribution.
        plugins: entry points: ``"csv"`` is the class Plugin of the module, ``"csv = module:Name"`` as it stands.
        code: of the module; None writes none.
        metadata: further lines of METADATA, such as ``Provides-Extra: fast``.
        group: of the entry points.
    """
    module = name.replace("-", "_")
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata])
    )
    lines = [line if "=" in line else f"{line} = {module}:Plugin" for line in plugins]
    if lines:
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
    if code is not None:
        (folder / f"{module}.py").write_text(dedent(code))
