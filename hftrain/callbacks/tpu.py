"""What a TPU did: ``debug="tpu_metrics_debug"``."""

from __future__ import annotations

from typing import Any

from hftrain.hardware.xla import metrics_report
from hftrain.types.callback import TrainerCallback


class TpuMetricsCallback(TrainerCallback):
    """Print torch_xla's metrics after each epoch, on the main process."""

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Print them."""
        if state.is_world_process_zero:
            print(metrics_report())
