"""Showing a run in a notebook: one bar, and a table that grows by a row with every evaluation or log."""

from __future__ import annotations

import html
import sys
from time import monotonic
from typing import Any

from hftrain.types.callback import TrainerCallback, without_keywords
from hftrain.types.choices import IntervalStrategy
from hftrain.types.control import TrainerControl

_BETWEEN_UPDATES_S = 0.2
_NOT_SHOWN = ("runtime", "samples_per_second", "steps_per_second", "jit_compilation_time")


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook, which shows HTML."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if hasattr(ipython, "get_ipython") else None
    return "IPKernelApp" in getattr(shell, "config", ())


class ProgressBar:
    """How far something has come, as HTML.

    Args:
        total: where it ends.
        position: where it begins.
    """

    def __init__(self, total: int, position: int = 0) -> None:
        self.total = total
        self.position = self._start = position
        self.comment = ""
        self._started = monotonic()

    def html(self) -> str:
        """The bar, with times so far and to go."""
        elapsed, done = monotonic() - self._started, self.position - self._start
        times = clock(elapsed)
        if done > 0 and self.position < self.total:
            left = elapsed / done * (self.total - self.position)
            times += f" &lt; {clock(left)}, {done / max(elapsed, 1e-9):.2f} it/s"
        label = f"[{self.position}/{self.total} {times}{', ' if self.comment else ''}{html.escape(self.comment)}]"
        bar = f"<progress value='{self.position}' max='{self.total}' style='width:300px; height:20px;'></progress>"
        return f"<div>{bar} {label}</div>"


class MetricsTable:
    """Values by column; a row begins where the value of the first column changes.

    Args:
        columns: the first columns; a value of another name adds one.
    """

    def __init__(self, columns: list[str]) -> None:
        self.columns = columns
        self.rows: list[dict[str, Any]] = []

    def write(self, values: dict[str, Any]) -> None:
        """Add a row, or complete the last one if it has the same first column."""
        self.columns += [name for name in values if name not in self.columns]
        first = self.columns[0]
        if self.rows and self.rows[-1][first] == values[first]:
            self.rows[-1].update(values)
        else:
            self.rows.append(dict(values))

    def html(self) -> str:
        """The table; a value that a row does not have is "No log"."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        lines = ["".join(f"<td>{_shown(row.get(name, 'No log'))}</td>" for name in self.columns) for row in self.rows]
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return f'<table border="1" class="dataframe"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


class NotebookProgressCallback(TrainerCallback):
    """Shows a bar for training, one for each evaluation below it, and a table of losses and metrics.

    The table has a row for every evaluation, or for every log in a run without. It is drawn in place, at most five
    times a second, by the first process.
    """

    def __init__(self) -> None:
        self.training_bar: ProgressBar | None = None
        self.prediction_bar: ProgressBar | None = None
        self.table: MetricsTable | None = None
        self._display: Any = None
        self._loader: Any = None
        self._next_update = 0.0

    def on_train_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        """Open the bar and an empty table."""
        if not state.is_world_process_zero:
            return
        first = "Epoch" if args.eval_strategy == IntervalStrategy.EPOCH else "Step"
        validation = ["Validation Loss"] if args.eval_strategy != IntervalStrategy.NO else []
        self.table = MetricsTable([first, "Training Loss", *validation])
        self.training_bar = ProgressBar(state.max_steps, state.global_step)
        self.prediction_bar = self._loader = self._display = None  # an error may have left them
        self._draw()

    @without_keywords
    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar, if its time has come."""
        if self.training_bar is not None and monotonic() >= self._next_update:
            self._move_training_bar(state)

    def on_prediction_step(
        self, args: Any, state: Any, control: TrainerControl, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Open the evaluation's bar with the first batch, and move it, if its time has come."""
        if self.prediction_bar is None or eval_dataloader is not self._loader:  # an error may have left another's bar
            total, self.prediction_bar, self._loader = num_batches(eval_dataloader), None, eval_dataloader
            if total is None or not state.is_world_process_zero:
                return
            self.prediction_bar, self._next_update = ProgressBar(total), 0.0
        self.prediction_bar.position += 1
        if monotonic() >= self._next_update:
            self._draw()

    def on_log(
        self, args: Any, state: Any, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Add a row, if there are no evaluations to do so."""
        if self.table is not None and args.eval_strategy == IntervalStrategy.NO and "loss" in (logs or {}):
            assert logs is not None  # it has a loss
            self.table.write({"Step": state.global_step, "Training Loss": logs["loss"]})
            self._draw()

    def on_evaluate(
        self, args: Any, state: Any, control: TrainerControl, metrics: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Add the evaluation's row, and close its bar."""
        if self.table is not None:
            self.table.write(_row(self.table.columns[0], state, metrics or {}))
        self._close_prediction_bar()

    def on_predict(
        self, args: Any, state: Any, control: TrainerControl, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Close the prediction's bar."""
        self._close_prediction_bar()

    def on_train_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        """Bring the bar to the last step, and leave bar and table as they are."""
        if self.training_bar is not None:
            self._move_training_bar(state)
            self.training_bar = self.table = self._display = None

    def _move_training_bar(self, state: Any) -> None:
        assert self.training_bar is not None  # the callers check
        self.training_bar.position, self.training_bar.total = state.global_step, state.max_steps
        self.training_bar.comment = f"Epoch {state.epoch or 0:.4g}/{state.num_train_epochs}"
        self._draw()

    def _close_prediction_bar(self) -> None:
        if self.prediction_bar is None and self.table is None:
            return
        self.prediction_bar = self._loader = None
        self._draw()
        if self.training_bar is None:  # an evaluation alone
            self._display = None

    def _draw(self) -> None:
        # Imported when something is drawn; a kernel has it loaded.
        from IPython.display import HTML, display

        self._next_update = monotonic() + _BETWEEN_UPDATES_S
        parts = (self.training_bar, self.table, self.prediction_bar)
        shown = HTML("".join(part.html() for part in parts if part is not None))
        if self._display is None:
            self._display = display(shown, display_id=True)
        else:
            self._display.update(shown)


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds, with hours if there are any."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def _row(first: str, state: Any, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return an evaluation's values by column: the last training loss, and every metric under a name to read."""
    losses = (row["loss"] for row in reversed(state.log_history) if "loss" in row)
    prefix = next((name.removesuffix("_loss") for name in metrics if name.endswith("_loss")), "eval")
    left_out = {"total_flos", "epoch", *(f"{prefix}_{name}" for name in _NOT_SHOWN)}
    row = {
        first: int(state.epoch) if first == "Epoch" else state.global_step,
        "Training Loss": next(losses, "No log"),
        "Validation Loss": "No log",
    }
    for name, value in metrics.items():
        if name not in left_out:
            title = " ".join(word.capitalize() for word in name.split("_")[1:])
            row["Validation Loss" if title == "Loss" else title] = value
    return row


def _shown(value: Any) -> str:
    return f"{value:.6f}" if isinstance(value, float) else html.escape(str(value))


def num_batches(loader: Any) -> int | None:
    """How many batches there are; None where the loader cannot tell."""
    try:
        return len(loader)
    except TypeError:
        return None
