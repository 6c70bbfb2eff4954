"""Arguments that are not those of the checkpoint."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from hftrain import TrainingArguments
from hftrain.trainer.compared import CHANGE_THE_RUN, changed_arguments
from tests.trainer.tasks import arguments, trainer

COMPARED_ELSEWHERE = {  # with the run's shape, or with trainer_state.json
    *("seed", "data_seed", "per_device_train_batch_size", "per_gpu_train_batch_size", "gradient_accumulation_steps"),
    *("dataloader_num_workers", "logging_steps", "eval_steps", "save_steps"),
}
SAME_RUN = {
    *("output_dir", "overwrite_output_dir", "do_train", "do_eval", "do_predict", "resume_from_checkpoint", "run_name"),
    *("ignore_data_skip", "restore_callback_states_from_checkpoint"),
    *("use_cpu", "no_cuda", "use_mps_device", "torch_empty_cache_steps", "tpu_num_cores", "tpu_metrics_debug"),
    *("full_determinism", "torch_compile", "torch_compile_backend", "torch_compile_mode", "torchdynamo", "use_ipex"),
    *("bf16_full_eval", "fp16_full_eval", "jit_mode_eval", "debug", "local_rank", "_n_gpu", "mp_parameters"),
    *("ddp_backend", "ddp_timeout", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers"),
    *("fsdp", "fsdp_config", "fsdp_min_num_params", "fsdp_transformer_layer_cls_to_wrap", "deepspeed"),
    *("dataloader_prefetch_factor", "dataloader_pin_memory", "dataloader_persistent_workers"),
    *("gradient_checkpointing", "gradient_checkpointing_kwargs"),
    *("eval_strategy", "eval_delay", "eval_on_start", "per_device_eval_batch_size", "per_gpu_eval_batch_size"),
    *("eval_accumulation_steps", "prediction_loss_only", "eval_do_concat_batches", "eval_use_gather_object"),
    *("batch_eval_metrics", "include_for_metrics", "include_inputs_for_metrics", "use_legacy_prediction_loop"),
    *("log_level", "log_level_replica", "log_on_each_node", "logging_dir", "logging_strategy", "logging_first_step"),
    *("logging_nan_inf_filter", "report_to", "disable_tqdm", "skip_memory_metrics", "include_tokens_per_second"),
    *("include_num_input_tokens_seen", "ray_scope", "tracker_errors", "tracker_close_s", "report"),
    *("save_strategy", "save_total_limit", "save_safetensors", "save_on_each_node", "save_only_model"),
    *("max_shard_size", "verify_checkpoint", "save_async", "save_minutes", "save_keep_every_steps", "deadline_minutes"),
    *("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_always_push"),
    *("hub_revision", "push_to_hub_model_id", "push_to_hub_organization", "push_to_hub_token"),
}


def test_of_every_argument_it_is_decided_whether_it_changes_a_run() -> None:
    every = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert every == {*CHANGE_THE_RUN} | COMPARED_ELSEWHERE | SAME_RUN
    assert len(every) == len(CHANGE_THE_RUN) + len(COMPARED_ELSEWHERE) + len(SAME_RUN)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"max_grad_norm": 0.5}, "max_grad_norm: 0.5 (from args) != 1.0 (from training_args.json)"),
        ({"optim": "sgd"}, "optim: sgd (from args) != adamw_torch (from training_args.json)"),
        ({"weight_decay": 0.1}, "weight_decay: 0.1 (from args) != 0.0 (from training_args.json); the loaded optimizer"),
        ({"folder": "elsewhere", "disable_tqdm": True}, None),
    ],
)
def test_an_argument_that_changes_the_run_gives_a_line(tmp_path: Path, changes: Any, line: str | None) -> None:
    saved = json.loads(arguments(tmp_path).to_json_string())
    options = {"folder": tmp_path, **changes}
    lines = changed_arguments(arguments(**options), saved)
    assert [found.startswith(line or "") for found in lines] == ([True] if line else [])


def test_what_the_checkpoint_does_not_know_is_no_difference(tmp_path: Path) -> None:
    assert changed_arguments(arguments(tmp_path), {"learning_rate_of_later_versions": 3}) == []


def test_a_resume_lists_each_changed_argument_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 1}
    trainer(tmp_path, max_steps=4, **settings).train()
    changed = {"learning_rate": 0.5, "weight_decay": 0.1, "per_device_train_batch_size": 4, "logging_steps": 2}
    ours = trainer(tmp_path, **{**settings, **changed})
    with caplog.at_level(logging.WARNING, "hftrain"):
        ours.train(resume_from_checkpoint=True)
    words = ("logging_steps:", "learning_rate:", "weight_decay:", "max_steps:", "batch_size")
    assert [caplog.text.count(word) for word in words] == [1] * 5
    assert sum("Arguments that are not those" in record.getMessage() for record in caplog.records) == 1
    assert ours.optimizer is not None
    assert [group["initial_lr"] for group in ours.optimizer.param_groups] == [0.01, 0.01]  # as the line says
    assert [group["weight_decay"] for group in ours.optimizer.param_groups] == [0.0, 0.0]
