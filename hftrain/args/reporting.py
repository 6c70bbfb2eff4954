"""Arguments about what a run tells and keeps: evaluation, logs, checkpoints, the hub."""

from __future__ import annotations

from dataclasses import dataclass, field

from hftrain.args.fields import argument
from hftrain.types.choices import HubStrategy, IntervalStrategy, SaveStrategy


@dataclass(kw_only=True)
class ReportingArguments:
    """When a run evaluates, logs and saves, and where that goes."""

    eval_strategy: IntervalStrategy | str = argument("no", "When to evaluate: 'no', 'steps' or 'epoch'.")
    eval_steps: float | None = argument(
        None, "Updates between two evaluations, or, below 1, their part of all updates; None: logging_steps."
    )
    eval_delay: float | None = argument(0, "Updates or epochs (by eval_strategy) before the first evaluation.")
    eval_on_start: bool = argument(False, "Evaluate once before the first update.")
    per_device_eval_batch_size: int = argument(8, "Samples of an evaluation batch, on each device.")
    per_gpu_eval_batch_size: int | None = argument(None, "Deprecated spelling of per_device_eval_batch_size.")
    eval_accumulation_steps: int | None = argument(
        None, "Evaluation batches after which predictions move to the CPU; None: at the end."
    )
    prediction_loss_only: bool = argument(False, "Evaluation and prediction give the loss only.")
    eval_do_concat_batches: bool = argument(True, "Join the predictions of all batches.")
    eval_use_gather_object: bool | None = argument(False, "Gather predictions that are not tensors.")
    batch_eval_metrics: bool = argument(False, "Call compute_metrics after each batch.")
    include_for_metrics: list[str] = field(
        default_factory=list, metadata={"help": "What compute_metrics gets as well: 'inputs', 'loss'."}
    )
    include_inputs_for_metrics: bool = argument(False, "Deprecated spelling of include_for_metrics=['inputs'].")
    use_legacy_prediction_loop: bool = argument(False, "Use the old prediction loop.")

    log_level: str = argument("passive", "Log level of the main process; 'passive': as it is.")
    log_level_replica: str = argument("warning", "Log level of all other processes.")
    log_on_each_node: bool = argument(True, "The first process of every node counts as a main one for logging.")
    logging_dir: str | None = argument(None, "Folder of TensorBoard's logs.")
    logging_strategy: IntervalStrategy | str = argument("steps", "When to log: 'no', 'steps' or 'epoch'.")
    logging_first_step: bool = argument(False, "Log the first update as well.")
    logging_steps: float = argument(500, "Updates between two logs, or, below 1, their part of all updates.")
    logging_nan_inf_filter: bool = argument(True, "Leave losses that are nan or infinite out of the logged mean.")
    report_to: None | str | list[str] = argument(None, "Trackers to report to; 'none' or []: none.")
    disable_tqdm: bool | None = argument(None, "No progress bars; None: bars on a terminal only.")
    skip_memory_metrics: bool = argument(True, "Do not measure memory.")
    include_tokens_per_second: bool | None = argument(False, "Measure tokens per second.")
    include_num_input_tokens_seen: bool | None = argument(False, "Count the tokens of all inputs.")
    ray_scope: str | None = argument("last", "Which result of a trial Ray compares.")

    save_strategy: SaveStrategy | str = argument("steps", "When to save: 'no', 'steps', 'epoch' or 'best'.")
    save_steps: float = argument(500, "Updates between two checkpoints, or, below 1, their part of all updates.")
    save_total_limit: int | None = argument(None, "Checkpoints to keep; None or 0: all.")
    save_safetensors: bool | None = argument(True, "False only warns: safetensors files are written, never pickles.")
    save_on_each_node: bool = argument(False, "Save on every node; for nodes without a common folder.")
    save_only_model: bool = argument(False, "Save the model without what a resume needs.")
    restore_callback_states_from_checkpoint: bool = argument(False, "Restore callbacks from the checkpoint on resume.")
    load_best_model_at_end: bool | None = argument(False, "End the run with the best model instead of the last.")
    metric_for_best_model: str | None = argument(None, "Metric that says which model is best; None: the loss.")
    greater_is_better: bool | None = argument(None, "Whether that metric grows; None: unless it ends in 'loss'.")

    push_to_hub: bool = argument(False, "Push the model to a hub at each save.")
    hub_model_id: str | None = argument(None, "Name of the repository.")
    hub_strategy: HubStrategy | str = argument("every_save", "What is pushed, and when.")
    hub_token: str | None = argument(None, "Token for the hub.", is_secret=True)
    hub_private_repo: bool | None = argument(None, "Whether a new repository is private.")
    hub_always_push: bool = argument(False, "Push even if the push before is still going on.")
    hub_revision: str | None = argument(None, "Branch, tag or commit to push to.")
    push_to_hub_model_id: str | None = argument(None, "Deprecated spelling of hub_model_id.")
    push_to_hub_organization: str | None = argument(None, "Deprecated: part of hub_model_id.")
    push_to_hub_token: str | None = argument(None, "Deprecated spelling of hub_token.", is_secret=True)
