"""Arguments that are hftrain's own: a script for ``transformers`` never sets them."""

from __future__ import annotations

from dataclasses import dataclass

from hftrain.args.fields import argument


@dataclass(kw_only=True)
class ExtensionArguments:
    """Own arguments; also ours is the value ``resume_from_checkpoint="auto"``."""

    max_shard_size: str = argument("5GB", "Largest file of a saved model, such as '5GB' or '500MB'.")
    verify_checkpoint: str = argument("auto", "What is compared on load: 'auto', 'full' (checksums) or 'sizes'.")
    save_async: bool | None = argument(
        None, "Write checkpoints while training goes on; None: if nothing watches the save and there is memory for it."
    )
    save_minutes: float | None = argument(None, "Minutes from one checkpoint to the next, beside save_strategy.")
    save_keep_every_steps: int | None = argument(
        None, "Keep every checkpoint whose step is a multiple of this, beside those of save_total_limit."
    )
    deadline_minutes: float | None = argument(
        None, "Minutes after which `train` saves and ends the process with exit code 75."
    )
    tracker_errors: str = argument("warn", "What an outage of a tracker does: 'warn' or 'raise'.")
    tracker_close_s: float = argument(60.0, "Seconds that the end of a run waits for trackers.")
    report: str | None = argument(
        None, "At the end of a run, write a page that shows it into its folder in runs/: 'html'."
    )
    auto_batch_keep_global: bool = argument(
        False, "Keep the global batch when auto_find_batch_size halves it, by more accumulation."
    )
