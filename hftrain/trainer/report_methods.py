"""What a run says of itself: rows, metric tables and result files. Overridable methods."""

from __future__ import annotations

import os

from hftrain.trainer.data_methods import DataMethods


class ReportMethods(DataMethods):
    """Log a row, print and keep metrics, write the state."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add epoch and step to ``logs``, keep the row and tell the callbacks. Override it to add your own.

        Args:
            logs: the row's values by name.
            start_time: when the run began, as `time.time` says it; None where no run is going on.
        """
        if self.state.epoch is not None:
            logs["epoch"] = self.state.epoch
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def save_state(self) -> None:
        """Write ``trainer_state.json`` into ``args.output_dir``. The main process does."""
        if self._running_engine().is_world_process_zero:
            os.makedirs(str(self.args.output_dir), exist_ok=True)
            self.state.save_to_json(os.path.join(str(self.args.output_dir), "trainer_state.json"))
