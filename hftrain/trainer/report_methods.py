"""What a run says of itself: rows, metric tables and result files. Overridable methods."""

from __future__ import annotations

import datetime
import os
from typing import Any

from hftrain.checkpoint.storage import join, plain_path
from hftrain.core.speed import speed_metrics
from hftrain.trainer.data_methods import DataMethods
from hftrain.trainer.media import log_artifacts, log_media
from hftrain.trainer.result_files import read_results, write_results, write_state


class ReportMethods(DataMethods):
    """Log a row, print and keep metrics, write the state."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add epoch and step to ``logs``, keep the row and tell the callbacks. Override it to add your own.

        Args:
            logs: the row's values by name.
            start_time: when training began, as `time.time` says it; None for a row of anything else. With
                ``include_num_input_tokens_seen`` the row then says how many tokens were read per second.
        """
        if self.state.epoch is not None:
            logs["epoch"] = self.state.epoch
        if self.args.include_num_input_tokens_seen:
            logs["num_input_tokens_seen"] = self.state.num_input_tokens_seen
            if start_time is not None:
                logs.update(speed_metrics("train", start_time, num_tokens=self.state.num_input_tokens_seen))
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def log_media(self, name: str, value: Any, kind: str = "image", step: int | None = None) -> None:
        """Show something beside the numbers, in the run's report and in the trackers that can (the README lists them).

        It may be called on any rank, at any time: in callbacks and overridden methods, in an evaluation, and outside
        of training, where it goes the way of a row that is logged there. The process that reports writes a file into
        ``runs/<run_id>/media``; others do nothing, and with ``report_to="none"`` nothing is read or written.

        Args:
            name: of what is shown; the same one at another step goes on with it.
            value: of an image: a PIL image, a matplotlib figure, the path of an image file, or an array or tensor of
                (height, width), (height, width, channels) or (channels, height, width), with 1, 3 or 4 channels,
                floats in [0, 1] or integers in [0, 255]; where both orders fit, a tensor has its channels first and
                an array last. Of a histogram: an array, a tensor or a list of numbers; those that are not finite are
                left out, and counted in a warning. Of a text: a str, where known tokens are masked. What lies on a
                device is copied to the host, which waits for it.
            kind: "image", "histogram" or "text".
            step: that it belongs to; None takes ``state.global_step``.

        Raises:
            ConfigurationError: the value is none of its kind; on the process that reports.
        """
        log_media(self, name, value, kind=kind, step=step)

    def log_artifacts(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Keep a folder or a file with the run: a copy of it in ``runs/<run_id>/artifacts``, and in trackers that can.

        It may be called like `log_media`. The copy is made before this returns, so that ``path`` may be changed or
        removed at once; what is in it is not looked at, so secrets in it are not masked.

        Args:
            path: on a local disk.
            name: that trackers show; None takes the last part of ``path``.

        Raises:
            ConfigurationError: there is nothing at ``path``; on the process that reports.
        """
        log_artifacts(self, path, name=name)

    def metrics_format(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Return ``metrics`` as people read them: memory in MB, runtimes as h:mm:ss.cc, flos in GF, four digits."""
        return {name: _readable(name, value) for name, value in metrics.items()}

    def log_metrics(self, split: str, metrics: dict[str, Any]) -> None:
        """Print the metrics of one split as a table, on the main process.

        With ``skip_memory_metrics=False`` (it needs psutil) the table has the memory of `train`, `evaluate` or
        `predict`, and with the first of them that of the Trainer's construction (``init_``): ``*_alloc_delta`` is
        what was allocated at the end beyond the start and may be negative; ``*_peaked_delta`` is what was needed at
        most beyond that end, never negative. ``cpu`` is the resident memory of this process, sampled every
        millisecond; ``gpu`` is what torch's allocator counts. What runs inside `train` belongs to it.

        Args:
            split: "train", "eval", "test" or "all"; stands in the title.
            metrics: what train, evaluate or predict returned.
        """
        if not self.state.is_world_process_zero:
            return
        rows = {str(name): str(value) for name, value in self.metrics_format(metrics).items()}
        names, values = max(map(len, rows), default=0), max(map(len, rows.values()), default=0)
        table = [f"  {name:<{names}} = {rows[name]:>{values}}" for name in sorted(rows)]
        print("\n".join([f"***** {split} metrics *****", *table]), flush=True)

    def save_metrics(self, split: str, metrics: dict[str, Any], combined: bool = True) -> None:
        """Write metrics, as numbers, into ``<split>_results.json`` in ``args.output_dir``. The main process does.

        Args:
            split: "train", "eval", "test" or "all".
            metrics: what train, evaluate or predict returned.
            combined: add them to ``all_results.json`` too, where the latest value of a name counts.
        """
        if not self.state.is_world_process_zero:
            return
        folder = plain_path(str(self.args.output_dir))
        write_results(join(folder, f"{split}_results.json"), metrics)
        if combined:
            every = join(folder, "all_results.json")
            write_results(every, {**read_results(every), **metrics})

    def save_state(self) -> None:
        """Write ``trainer_state.json`` into ``args.output_dir``. The main process does."""
        if self.state.is_world_process_zero:
            write_state(self.state, plain_path(str(self.args.output_dir)))


def _readable(name: str, value: Any) -> Any:
    if "_mem_" in name and isinstance(value, int):
        return f"{value >> 20}MB"
    if "_runtime" in name:
        whole = int(value)
        return f"{datetime.timedelta(seconds=whole)}.{int(abs(value - whole) * 100):02d}"
    if name == "total_flos":
        return f"{int(value) >> 30}GF"
    return round(value, 4) if isinstance(value, float) else value
