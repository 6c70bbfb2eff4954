"""What parts of hftrain need beyond what it is installed with, asked of the metadata that pip leaves."""

from __future__ import annotations

from hftrain.plugin_api.requirements import lacks

REPORT_REQUIRES = ("plotly>=5.24",)


def report_lacks() -> str | None:
    """Return what a report page needs and is not installed, with the command that installs it; None if all is there."""
    found = lacks(REPORT_REQUIRES)
    if not found:
        return None
    return f'{", ".join(lack.text for lack in found)}. Run: pip install "hftrain[report]"'
