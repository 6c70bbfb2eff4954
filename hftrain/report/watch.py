"""A run in the terminal: one frame of what its page shows, drawn with rich. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hftrain.errors import PluginUnavailableError
from hftrain.plugin_api.requirements import lacks
from hftrain.report.follow import lowest_and_highest, progress_of, recent_timing
from hftrain.report.runs import PARTS, RunData, Series

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

REQUIRES = ("rich>=13",)
_LEVELS = " ▁▂▃▄▅▆▇█"
_FIRST = ("loss", "eval_loss")
_QUIET = ("_runtime", "_per_second", "total_flos", "_preparation_time")
"""How names end that a reader does not follow; the page and ``--json`` have them."""
_MAX_METRICS = 14
_MAX_WARNINGS = 3
_CHART_HEIGHT = 6
_SILENCE_S = 60.0
_COLORS = {"finished": "green", "failed": "red", "interrupted": "yellow", "pruned": "magenta"}


def check_installed() -> None:
    """Refuse to draw without rich.

    Raises:
        PluginUnavailableError: says what to install.
    """
    found = lacks(REQUIRES)
    if found:
        raise PluginUnavailableError(
            f'Drawing a run needs {found[0].text}. Run: pip install "hftrain[report]". Without it: --json, or plain '
            "lines with --plain."
        )


def frame(run: RunData, *, now: float, width: int) -> RenderableType:
    """Return what is shown of a run.

    Args:
        run: as far as it is told.
        now: unix seconds.
        width: columns of the terminal.
    """
    from rich.console import Group
    from rich.text import Text

    blank = Text()
    parts: list[RenderableType] = [_title(run, now), *_progress(run, now, width)]
    charts = _charts(run, width)
    if charts is not None:
        parts += [blank, charts]
    if run.series:
        parts += [blank, _metrics(run, width)]
    parts += [line for line in (_timing(run), _checkpoint(run, now), *_warnings(run)) if line is not None]
    return Group(*parts)


def waiting(path: str) -> RenderableType:
    """Return what is shown while there is no run."""
    from rich.text import Text

    return Text(f"Waiting for a run in {clean(path)}", style="dim")


def line(run: RunData, now: float) -> str:
    """Return the run's news in one line, for where nothing can be drawn."""
    progress = progress_of(run, now)
    total = f"/{progress.max_steps}" if progress.max_steps else ""
    words = [f"step {progress.step}{total}"]
    words += [f"epoch {run.epoch:.2f}"] if run.epoch is not None else []
    words += [f"{clean(name)} {number(run.series[name].values[-1])}" for name in _followed(run)]
    words += [f"{number(progress.steps_per_second)} steps/s"] if progress.steps_per_second else []
    words += [f"left {duration(progress.left_s)}"] if progress.left_s is not None else []
    return "  ".join(words)


def ending(run: RunData) -> str:
    """Return how the run ended, in a line."""
    reason = f": {clean(run.error)}" if run.error else ""
    return f"{run.status or 'running'} at step {run.step}{reason}"


# ---- parts ----------------------------------------------------------------------------------------------------------


def _title(run: RunData, now: float) -> Text:
    from rich.text import Text

    text = Text()
    text.append(clean(run.name or run.run_id), style="bold")
    if run.name:
        text.append(f"  {clean(run.run_id)}", style="dim")
    silent = progress_of(run, now).silent_s or 0.0
    status = run.status or ("running" if silent < _SILENCE_S else f"no news for {duration(silent)}")
    text.append("  ")
    text.append(clean(status), style=_COLORS.get(status, "cyan" if run.status is None else ""))
    if run.error:
        text.append(f"  {clean(run.error)}", style="red")
    return text


def _progress(run: RunData, now: float, width: int) -> list[Text]:
    from rich.text import Text

    progress = progress_of(run, now)
    text = Text(f"step {progress.step:,}")
    if progress.max_steps:
        share = min(1.0, progress.step / progress.max_steps)
        num_full = round(share * (length := max(10, min(40, width - 50))))
        text.append(f" / {progress.max_steps:,}  ")
        text.append("█" * num_full, style="green")
        text.append("░" * (length - num_full), style="dim")
        text.append(f" {100 * share:.0f} %")
    if run.epoch is not None:
        text.append(f"   epoch {run.epoch:.2f}")
    facts = [("elapsed", progress.elapsed_s, duration), ("left", progress.left_s, duration)]
    words = [f"{name} {show(value)}" for name, value, show in facts if value is not None]
    words += [f"{number(progress.steps_per_second)} steps/s"] if progress.steps_per_second else []
    words += [f"resumed at {', '.join(map(str, run.resumes[-3:]))}"] if run.resumes else []
    return [text, Text("   ".join(words), style="dim")]


def _charts(run: RunData, width: int) -> RenderableType | None:
    from rich.table import Table

    names = [name for name in _FIRST if name in run.series and len(run.series[name]) > 1]
    if not names or width < 40:
        return None
    room = (width - 2) // len(names)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row(*(_chart(name, run.series[name], min(60, room - 2)) for name in names))
    return table


def _chart(name: str, series: Series, width: int) -> Text:
    from rich.text import Text

    bounds = lowest_and_highest(series)
    text = Text(f"{name}\n", style="bold")
    if bounds is None:
        return text.append("nothing finite", style="red")
    labels = [number(bounds[1]), *[""] * (_CHART_HEIGHT - 2), number(bounds[0])]
    edge = max(map(len, labels))
    room = max(1, width - edge - 2)
    for label, row in zip(labels, area(series.values, room, _CHART_HEIGHT, is_stretched=True), strict=True):
        text.append(f"{label:>{edge}} ", style="dim not bold").append(f"{row}\n", style="blue not bold")
    steps = f"{series.steps[0]:,}", f"{series.steps[-1]:,}"
    gap = max(1, room - sum(map(len, steps)))
    return text.append(f"{'':>{edge}} {steps[0]}{' ' * gap}{steps[1]}", style="dim not bold")


def _metrics(run: RunData, width: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("metric", "last", "lowest", "highest"):
        table.add_column(title, justify="left" if title == "metric" else "right", no_wrap=True)
    table.add_column("trend", no_wrap=True)
    names = _followed(run)
    room = max(0, min(40, width - 56))
    for name in names[:_MAX_METRICS]:
        series = run.series[name]
        last = Text(number(series.values[-1]), style="bold" if math.isfinite(series.values[-1]) else "bold red")
        low, high = lowest_and_highest(series) or (math.nan, math.nan)
        table.add_row(clean(name), last, number(low), number(high), Text(trend(series.values, room), style="blue"))
    if len(names) > _MAX_METRICS:
        table.add_row(Text(f"and {len(names) - _MAX_METRICS} more", style="dim"))
    return table


def _timing(run: RunData) -> Text | None:
    from rich.text import Text

    timing = recent_timing(run)
    total = 0.0 if timing is None else sum(timing[part] for part in PARTS)
    if timing is None or total <= 0:
        return None
    text = Text("\ntime  ", style="dim")
    shares = "  ".join(f"{part} {100 * timing[part] / total:.0f} %" for part in PARTS)
    return text.append(f"{shares}  ({1000 * total / timing['steps']:.3g} ms a step)", style="not dim")


def _checkpoint(run: RunData, now: float) -> Text | None:
    from rich.text import Text

    if not run.checkpoints:
        return None
    last = run.checkpoints[-1]
    text = Text("saved ", style="dim").append(clean(last.name), style="not dim")
    return text.append(f", {duration(max(0.0, now - last.time))} ago")


def _warnings(run: RunData) -> list[Text]:
    from rich.text import Text

    if not run.warnings:
        return []
    lines = [Text(f"\n{len(run.warnings)} warning{'' if len(run.warnings) == 1 else 's'}", style="yellow")]
    for one in run.warnings[-_MAX_WARNINGS:]:
        said = Text(f"  step {one.step}: {clean(one.text)}", no_wrap=True, overflow="ellipsis")
        lines.append(said)
    return lines


# ---- texts ----------------------------------------------------------------------------------------------------------


def trend(values: Sequence[float], width: int) -> str:
    """Return a line of blocks, one a column: how high the mean of that part of the values is; ``!`` for none finite."""
    return area(values, width, 1)[0] if width > 0 and len(values) else ""


def area(values: Sequence[float], width: int, height: int, *, is_stretched: bool = False) -> list[str]:
    """Return a curve as ``height`` rows of blocks, the highest first, from the lowest to the highest value.

    Args:
        values: at least one.
        width: columns at most, and exactly if ``is_stretched``.
        height: in rows.
        is_stretched: values fewer than the columns are drawn several columns wide.
    """
    means = _means(values, width)
    if is_stretched and means:
        means = [means[column * len(means) // width] for column in range(width)]
    finite = [mean for mean in means if mean is not None]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    most = 8 * height - 1
    levels = [
        None if mean is None else 1 + round(most * ((mean / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.5))
        for mean in means
    ]
    rows = []
    for row in reversed(range(height)):
        heights = ("!" if level is None and row == 0 else _LEVELS[_part(level, row)] for level in levels)
        rows.append("".join(heights))
    return rows


def _part(level: int | None, row: int) -> int:
    return 0 if level is None else min(8, max(0, level - 8 * row))


def _means(values: Sequence[float], width: int) -> list[float | None]:
    """Return the mean of the finite values of each of at most ``width`` equal parts; None for a part without any."""
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    num = min(width, len(array))
    begins = np.arange(num) * len(array) // num
    is_finite = np.isfinite(array)
    sums = np.add.reduceat(np.where(is_finite, array, 0.0) / len(array), begins)  # divided first: no sum overflows
    counts = np.add.reduceat(is_finite.astype(np.int64), begins) / len(array)
    return [float(one / count) if count else None for one, count in zip(sums, counts, strict=True)]


def _followed(run: RunData) -> list[str]:
    names = [name for name in run.series if not name.endswith(_QUIET)]
    order = {name: place for place, name in enumerate(_FIRST)}
    return sorted(names, key=lambda name: (order.get(name, len(order)), not name.startswith("eval_")))


def number(value: float | None) -> str:
    """Return a number in at most nine letters."""
    if value is None or math.isnan(value):
        return "nan"
    return f"{value:,.0f}" if value == round(value, 0) and 1e3 <= abs(value) < 1e7 else f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """Return ``h:mm:ss``, with days before it when there are."""
    whole = int(seconds or 0)
    days, rest = divmod(whole, 86_400)
    clock = f"{rest // 3600}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days} d {clock}" if days else clock


def clean(text: Any) -> str:
    """Return a text without what could steer a terminal: a stranger's record may hold it."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))
