"""Showing a run as it goes: bars on a terminal, rows of values everywhere."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any

from hftrain.callbacks.notebook import NotebookProgressCallback, in_notebook, num_batches
from hftrain.types.callback import TrainerCallback, without_keywords
from hftrain.types.control import TrainerControl

_BETWEEN_UPDATES_S = 0.1


def progress_callback_class(disable_tqdm: bool | None) -> type[TrainerCallback]:
    """The callback that shows a run: bars and rows, or a table in a notebook; rows only when bars are off."""
    if disable_tqdm:
        return PrinterCallback
    return NotebookProgressCallback if in_notebook() else ProgressCallback


class PrinterCallback(TrainerCallback):
    """Prints every row that is logged, on the first process of each machine."""

    def on_log(
        self, args: Any, state: Any, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Print the row."""
        if state.is_local_process_zero and logs is not None:
            print(_shown(logs), flush=True)


class ProgressCallback(TrainerCallback):
    """Shows a bar for training and one for each evaluation, and prints the rows that training logs.

    Bars go to stderr, rows to stdout, from the first process only. With ``disable_tqdm=None`` bars are
    drawn where somebody watches, on a terminal or in a notebook; with False always. A bar is drawn at most
    ten times a second, and a step in between costs one look at the clock.

    Args:
        max_str_len: Strings in a row that are longer than this are not printed, only their length is.
    """

    def __init__(self, max_str_len: int = 100) -> None:
        self.max_str_len = max_str_len
        self.training_bar: Any = None
        self.prediction_bar: Any = None
        self._in_training = False
        self._batches = 0
        self._loader: Any = None
        self._next_update = 0.0

    def on_train_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        """Open the training bar, at the step that training starts from."""
        if not state.is_world_process_zero:
            return
        self._in_training = True
        self._close_bars()  # an error may have left them
        if _is_watched(args):
            self.training_bar = _bar(total=state.max_steps, initial=state.global_step)
            self._next_update = 0.0

    @without_keywords
    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        """Move the training bar, if its time has come."""
        if self.training_bar is not None and monotonic() >= self._next_update:
            self.training_bar.total = state.max_steps  # smaller batches make more steps
            self._move(self.training_bar, state.global_step)

    def on_prediction_step(
        self, args: Any, state: Any, control: TrainerControl, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Open the evaluation bar at the first batch, and move it, if its time has come."""
        if eval_dataloader is not self._loader:  # an error may have left another's bar
            self._close_prediction_bar()
            self._loader = eval_dataloader
        self._batches += 1
        if self._batches == 1 and state.is_world_process_zero and _is_watched(args):
            total = num_batches(eval_dataloader)
            if total is not None:
                self.prediction_bar = _bar(total=total, leave=self.training_bar is None)
                self._next_update = 0.0
        if self.prediction_bar is not None and monotonic() >= self._next_update:
            self._move(self.prediction_bar, self._batches)

    def on_evaluate(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        """Close the evaluation bar."""
        self._close_prediction_bar()

    def on_predict(
        self, args: Any, state: Any, control: TrainerControl, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Close the evaluation bar."""
        self._close_prediction_bar()

    def on_log(
        self, args: Any, state: Any, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Print the row, above the bar where there is one."""
        if not (self._in_training and state.is_world_process_zero and logs is not None):
            return
        row = str({name: self._shortened(value) for name, value in _shown(logs).items()} | _rounded_epoch(logs))
        if self.training_bar is None:
            print(row, flush=True)
        else:
            self._move(self.training_bar, state.global_step)
            self.training_bar.write(row)

    def on_train_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        """Bring the training bar to the last step and close it."""
        self._in_training = False
        if self.training_bar is not None:
            self._move(self.training_bar, state.global_step)
        self._close_bars()

    def _move(self, bar: Any, position: int) -> None:
        bar.update(position - bar.n)
        self._next_update = monotonic() + _BETWEEN_UPDATES_S

    def _close_bars(self) -> None:
        self._close_prediction_bar()
        if self.training_bar is not None:
            self.training_bar.close()
            self.training_bar = None

    def _close_prediction_bar(self) -> None:
        if self.prediction_bar is not None:
            self._move(self.prediction_bar, self._batches)
            self.prediction_bar.close()
            self.prediction_bar = None
        self._batches, self._loader = 0, None

    def _shortened(self, value: Any) -> Any:
        if isinstance(value, str) and len(value) > self.max_str_len:
            return f"<{len(value)} characters; ProgressCallback(max_str_len={self.max_str_len}) leaves them out>"
        return value


def _shown(logs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in logs.items() if name != "total_flos"}


def _rounded_epoch(logs: dict[str, Any]) -> dict[str, Any]:
    return {"epoch": round(logs["epoch"], 2)} if isinstance(logs.get("epoch"), float) else {}


def _is_watched(args: Any) -> bool:
    """Whether bars are asked for, or somebody would see them."""
    disabled = getattr(args, "disable_tqdm", None)
    if disabled is None:
        return sys.stderr.isatty() or "ipykernel" in sys.modules
    return not disabled


def _bar(*, total: int, initial: int = 0, leave: bool = True) -> Any:
    # Imported when a bar is drawn: tqdm.auto is slow to import and most runs are not watched.
    from tqdm.auto import tqdm

    # The callback decides when to draw, so tqdm draws whenever it is asked.
    return tqdm(total=total, initial=initial, leave=leave, dynamic_ncols=True, mininterval=0, miniters=1)
