"""Every documented argument, and what becomes of it in this version: argument -> class.

"acts": setting it changes what a run does, old spellings included. "script's own": documented as read by the user's
script only. "refused": any value but the default is a ConfigurationError, and `hftrain.args.availability.REFUSED` has
its row. Arguments that act with some of their documented values only are listed in PARTLY_REFUSED as well.
"""

from __future__ import annotations

ACTS = "acts"
SCRIPT = "script's own"
REFUSED = "refused"

ARGUMENTS: dict[str, str] = {
    "output_dir": ACTS,
    "overwrite_output_dir": SCRIPT,
    "do_train": SCRIPT,
    "do_eval": SCRIPT,
    "do_predict": SCRIPT,
    "eval_strategy": ACTS,
    "prediction_loss_only": ACTS,
    "per_device_train_batch_size": ACTS,
    "per_device_eval_batch_size": ACTS,
    "per_gpu_train_batch_size": ACTS,
    "per_gpu_eval_batch_size": ACTS,
    "gradient_accumulation_steps": ACTS,
    "eval_accumulation_steps": ACTS,
    "eval_delay": ACTS,
    "torch_empty_cache_steps": ACTS,
    "learning_rate": ACTS,
    "weight_decay": ACTS,
    "adam_beta1": ACTS,
    "adam_beta2": ACTS,
    "adam_epsilon": ACTS,
    "max_grad_norm": ACTS,
    "num_train_epochs": ACTS,
    "max_steps": ACTS,
    "lr_scheduler_type": ACTS,
    "lr_scheduler_kwargs": ACTS,
    "warmup_ratio": ACTS,
    "warmup_steps": ACTS,
    "log_level": ACTS,
    "log_level_replica": ACTS,
    "log_on_each_node": ACTS,
    "logging_dir": ACTS,
    "logging_strategy": ACTS,
    "logging_first_step": ACTS,
    "logging_steps": ACTS,
    "logging_nan_inf_filter": ACTS,
    "save_strategy": ACTS,
    "save_steps": ACTS,
    "save_total_limit": ACTS,
    "save_safetensors": ACTS,
    "save_on_each_node": ACTS,
    "save_only_model": ACTS,
    "restore_callback_states_from_checkpoint": ACTS,
    "no_cuda": ACTS,
    "use_cpu": ACTS,
    "use_mps_device": ACTS,
    "seed": ACTS,
    "data_seed": ACTS,
    "jit_mode_eval": ACTS,
    "use_ipex": ACTS,
    "bf16": ACTS,
    "fp16": ACTS,
    "fp16_opt_level": ACTS,
    "half_precision_backend": ACTS,
    "bf16_full_eval": ACTS,
    "fp16_full_eval": ACTS,
    "tf32": ACTS,
    "local_rank": ACTS,
    "ddp_backend": ACTS,
    "tpu_num_cores": ACTS,
    "tpu_metrics_debug": ACTS,
    "debug": ACTS,
    "dataloader_drop_last": ACTS,
    "eval_steps": ACTS,
    "dataloader_num_workers": ACTS,
    "dataloader_prefetch_factor": ACTS,
    "past_index": ACTS,
    "run_name": ACTS,
    "disable_tqdm": ACTS,
    "remove_unused_columns": ACTS,
    "label_names": ACTS,
    "load_best_model_at_end": ACTS,
    "metric_for_best_model": ACTS,
    "greater_is_better": ACTS,
    "ignore_data_skip": ACTS,
    "fsdp": REFUSED,
    "fsdp_min_num_params": REFUSED,
    "fsdp_config": REFUSED,
    "fsdp_transformer_layer_cls_to_wrap": REFUSED,
    "accelerator_config": ACTS,
    "deepspeed": REFUSED,
    "label_smoothing_factor": ACTS,
    "optim": ACTS,
    "optim_args": ACTS,
    "adafactor": ACTS,
    "group_by_length": ACTS,
    "length_column_name": ACTS,
    "report_to": ACTS,
    "ddp_find_unused_parameters": ACTS,
    "ddp_bucket_cap_mb": ACTS,
    "ddp_broadcast_buffers": ACTS,
    "dataloader_pin_memory": ACTS,
    "dataloader_persistent_workers": ACTS,
    "skip_memory_metrics": ACTS,
    "use_legacy_prediction_loop": ACTS,
    "push_to_hub": REFUSED,
    "resume_from_checkpoint": SCRIPT,
    "hub_model_id": REFUSED,
    "hub_strategy": REFUSED,
    "hub_token": REFUSED,
    "hub_private_repo": REFUSED,
    "hub_always_push": REFUSED,
    "hub_revision": REFUSED,
    "gradient_checkpointing": ACTS,
    "gradient_checkpointing_kwargs": ACTS,
    "include_inputs_for_metrics": ACTS,
    "include_for_metrics": ACTS,
    "eval_do_concat_batches": ACTS,
    "fp16_backend": ACTS,
    "push_to_hub_model_id": REFUSED,
    "push_to_hub_organization": REFUSED,
    "push_to_hub_token": REFUSED,
    "_n_gpu": ACTS,
    "mp_parameters": REFUSED,
    "auto_find_batch_size": ACTS,
    "full_determinism": ACTS,
    "torchdynamo": ACTS,
    "ray_scope": REFUSED,
    "ddp_timeout": ACTS,
    "torch_compile": ACTS,
    "torch_compile_backend": ACTS,
    "torch_compile_mode": ACTS,
    "include_tokens_per_second": ACTS,
    "include_num_input_tokens_seen": ACTS,
    "neftune_noise_alpha": ACTS,
    "optim_target_modules": REFUSED,
    "batch_eval_metrics": ACTS,
    "eval_on_start": ACTS,
    "use_liger_kernel": REFUSED,
    "liger_kernel_config": REFUSED,
    "eval_use_gather_object": ACTS,
    "average_tokens_across_devices": ACTS,
    # sequence to sequence
    "sortish_sampler": ACTS,
    "predict_with_generate": ACTS,
    "generation_max_length": ACTS,
    "generation_num_beams": ACTS,
    "generation_config": ACTS,
}

# A value other than the default for each refused argument.
REFUSED_EXAMPLES: dict[str, object] = {
    "fsdp": "full_shard auto_wrap",
    "fsdp_min_num_params": 1000,
    "fsdp_config": "fsdp.json",
    "fsdp_transformer_layer_cls_to_wrap": "BertLayer",
    "deepspeed": {"zero_optimization": {"stage": 2}},
    "push_to_hub": True,
    "hub_model_id": "me/model",
    "hub_strategy": "end",
    "hub_token": "secret",
    "hub_private_repo": False,
    "hub_always_push": True,
    "hub_revision": "main",
    "push_to_hub_model_id": "model",
    "push_to_hub_organization": "me",
    "push_to_hub_token": "secret",
    "mp_parameters": "x",
    "ray_scope": "all",
    "optim_target_modules": "all-linear",
    "use_liger_kernel": True,
    "liger_kernel_config": {"rope": True},
    # sequence to sequence
}

# Arguments that act, with documented values that do not: argument -> such a value.
PARTLY_REFUSED: dict[str, object] = {
    "optim": "galore_adamw",
    "half_precision_backend": "apex",
    "fp16_backend": "apex",
    "use_ipex": True,
    "tpu_num_cores": 1,
    "tpu_metrics_debug": True,
    "debug": "tpu_metrics_debug",
    "ddp_backend": "ccl",
    "accelerator_config": {"use_configured_state": True},
}

# Where it is proved: argument that acts -> tests that fail, at least one of them, when it is ignored. Where a chain of
# two is named, the first follows the argument to a layer's setting, and the second shows what the layer makes of it.
_LOOP = "tests/trainer/test_arguments_act.py::"
_UPDATES = "tests/trainer/test_arguments_act_on_updates.py::"
_STEP = "tests/trainer/test_step_methods.py::"
_DEVICES = "tests/trainer/test_arguments_act_on_devices.py::"
_DATA = "tests/trainer/test_data_methods.py::"
_EVALUATION = "tests/trainer/test_evaluation.py::"
_STEPS = f"{_LOOP}test_an_epoch_of_64_samples_has_so_many_steps"
_ROWS = f"{_LOOP}test_rows_come_at_these_steps"
_CHECKPOINTS = f"{_LOOP}test_checkpoints_of_these_steps_are_there"
_ENGINE = f"{_DEVICES}test_the_engine_is_told"
_WORKERS = f"{_DEVICES}test_the_trainers_loaders_have_the_workers"
_LOG_LEVEL = f"{_DEVICES}test_a_process_of_two_nodes_logs_at_its_level"
_OPTIMIZER = f"{_UPDATES}test_the_optimizer_is_told_and_updates_otherwise"
_RATES = f"{_UPDATES}test_the_learning_rate_follows_the_schedule"
_FORMATS = f"{_UPDATES}test_numbers_have_the_format_that_is_asked_for"
_COMPILED = f"{_UPDATES}test_the_training_step_is_compiled_as_asked"
_COMPILES = "tests/hardware/test_engine.py::test_what_step_calls_is_compiled_once_and_the_names_stay"
_RECOMPUTES = f"{_UPDATES}test_gradient_checkpointing_recomputes_and_passes_its_keyword_arguments_on"
_CHOOSES = "tests/hardware/test_devices.py::test_auto_takes_the_best_device_there_is"
_RULES = "tests/args/test_rules.py::test_a_rule_says_what_was_found_and_what_to_set"
_DDP_OPTIONS = "tests/hardware/test_strategies.py::test_ddp_gets_the_options_that_were_set_and_no_others"
_GROUP = "tests/distributed/test_process_group.py::test_our_own_group_refuses_contradictions_and_ends_when_told"
_VENDORS = "tests/trainer/test_vendors.py::"
_APEX = f"{_VENDORS}test_apex_scales_the_loss_at_the_level_that_is_asked_for"
_TPU = f"{_VENDORS}test_a_run_on_a_tpu_uses_its_core_and_runs_what_was_recorded_at_each_step"
_TPU_METRICS = f"{_VENDORS}test_metrics_of_a_tpu_are_printed_after_each_epoch"
_SEQ2SEQ = "tests/trainer/test_seq2seq.py::"
_GENERATES = f"{_SEQ2SEQ}test_predictions_are_the_references"
_NOT_OFFERED = "tests/args/test_argument_table.py::test_a_refused_argument_is_named_and_something_else_is_offered"

PROOFS: dict[str, tuple[str, ...]] = {
    "output_dir": (_CHECKPOINTS,),
    "eval_strategy": (_ROWS,),
    "prediction_loss_only": (f"{_LOOP}test_only_the_loss_is_computed_when_that_is_asked",),
    "per_device_train_batch_size": (_STEPS,),
    "per_device_eval_batch_size": (f"{_LOOP}test_evaluation_has_its_own_batch_size",),
    "per_gpu_train_batch_size": (f"{_UPDATES}test_old_spellings_of_batch_sizes_act_in_a_run",),
    "per_gpu_eval_batch_size": (f"{_UPDATES}test_old_spellings_of_batch_sizes_act_in_a_run",),
    "gradient_accumulation_steps": (_STEPS,),
    "eval_accumulation_steps": (f"{_LOOP}test_predictions_move_to_the_host_every_so_many_batches",),
    "eval_delay": (_ROWS,),
    "torch_empty_cache_steps": (f"{_LOOP}test_memory_is_released_every_so_many_steps",),
    "learning_rate": (_OPTIMIZER,),
    "weight_decay": (_OPTIMIZER,),
    "adam_beta1": (_OPTIMIZER,),
    "adam_beta2": (_OPTIMIZER,),
    "adam_epsilon": (_OPTIMIZER,),
    "max_grad_norm": (f"{_UPDATES}test_gradients_are_clipped_to_the_norm_or_not_at_all",),
    "num_train_epochs": (_STEPS, "tests/trainer/test_train.py::test_steps_and_epochs_are_the_references"),
    "max_steps": (_STEPS,),
    "lr_scheduler_type": (_RATES, "tests/trainer/test_train.py::test_a_plateau_schedule_steps_on_the_metric"),
    "lr_scheduler_kwargs": (_RATES,),
    "warmup_ratio": (_RATES,),
    "warmup_steps": (_RATES,),
    "log_level": (_LOG_LEVEL,),
    "log_level_replica": (_LOG_LEVEL,),
    "log_on_each_node": (_LOG_LEVEL,),
    "logging_dir": (
        "tests/args/test_derivation.py::test_the_log_folder_is_dated_and_named_after_the_machine",
        "tests/trainer/test_report.py::test_a_callback_writes_into_the_log_folder",
    ),
    "report_to": (
        "tests/trainer/test_tracking.py::test_a_run_is_told_from_its_beginning_to_its_end",
        "tests/trainer/test_tracking.py::test_nobody_to_report_to_leaves_no_trace",
        "tests/trainer/test_tracking.py::test_all_means_those_that_can_start_without_asking",
    ),
    "logging_strategy": (_ROWS,),
    "logging_first_step": (_ROWS,),
    "logging_steps": (_ROWS,),
    "logging_nan_inf_filter": (f"{_LOOP}test_the_filter_keeps_a_loss_that_is_no_number_out_of_the_row",),
    "save_strategy": (_CHECKPOINTS, "tests/trainer/test_save.py::test_save_strategy_best_saves_only_improvements"),
    "save_steps": (_CHECKPOINTS,),
    "save_total_limit": (_CHECKPOINTS,),
    "save_safetensors": (
        "tests/trainer/test_save.py::test_a_checkpoint_holds_the_documented_files_and_no_pickle",
        "tests/trainer/test_save_methods.py::test_safetensors_are_written_where_pickles_were_asked_for_and_a_line_says_so",
    ),
    "save_on_each_node": (
        "tests/distributed/test_nodes.py::test_each_node_saves_all_it_needs_and_resumes_from_it_bit_for_bit",
        "tests/args/test_environment.py::test_who_saves_depends_on_save_on_each_node",
    ),
    "save_only_model": (f"{_LOOP}test_a_checkpoint_may_be_the_model_only",),
    "restore_callback_states_from_checkpoint": (f"{_LOOP}test_callbacks_get_their_state_back_only_when_asked",),
    "no_cuda": (_ENGINE,),
    "use_cpu": (_ENGINE, _CHOOSES),
    "use_mps_device": (
        _ENGINE,
        "tests/hardware/test_devices.py::test_a_device_that_is_not_there_is_refused_with_what_is",
    ),
    "seed": (
        f"{_UPDATES}test_the_order_of_an_epoch_follows_from_its_seed",
        f"{_UPDATES}test_a_new_model_follows_from_the_seed",
    ),
    "data_seed": (
        f"{_UPDATES}test_the_order_of_an_epoch_follows_from_its_seed",
        f"{_DATA}test_samples_come_in_the_references_order_beside_a_model_that_draws",
    ),
    "bf16": (_FORMATS, "tests/gpu/test_precision.py::test_the_losses_in_half_precision_follow_those_in_fp32"),
    "fp16": (_ENGINE, "tests/gpu/test_precision.py::test_an_overflow_in_fp16_skips_the_step_and_the_scheduler_waits"),
    "fp16_opt_level": (_APEX, _RULES),
    "use_ipex": (f"{_VENDORS}test_intels_extension_optimizes_model_and_optimizer_before_training",),
    "tpu_num_cores": (_TPU,),
    "tpu_metrics_debug": (_TPU_METRICS,),
    "debug": (f"{_VENDORS}test_a_run_stops_at_the_module_that_overflowed", _TPU_METRICS),
    "half_precision_backend": (f"{_DEVICES}test_an_autocast_backend_of_another_device_is_refused", _RULES, _APEX),
    "bf16_full_eval": (_FORMATS,),
    "fp16_full_eval": (_FORMATS,),
    "tf32": (_ENGINE, "tests/hardware/test_precision.py::test_tf32_is_set_and_restored_when_the_engine_closes"),
    "local_rank": (_RULES, "tests/args/test_derivation.py::test_the_local_rank_is_what_the_launcher_says"),
    "ddp_backend": (_ENGINE, _GROUP, "tests/hardware/test_vendors.py::test_a_vendors_backend_is_imported_first"),
    "dataloader_drop_last": (_STEPS,),
    "eval_steps": (_ROWS,),
    "dataloader_num_workers": (_WORKERS, f"{_DEVICES}test_workers_read_the_data"),
    "dataloader_prefetch_factor": (_WORKERS,),
    "run_name": (f"{_LOOP}test_a_checkpoint_knows_the_name_of_its_run",),
    "disable_tqdm": (f"{_LOOP}test_rows_are_printed_or_a_bar_is_drawn",),
    "skip_memory_metrics": (
        "tests/trainer/test_memory.py::test_the_first_stage_tells_the_construction_too",
        "tests/trainer/test_memory.py::test_nothing_is_measured_unless_it_is_asked_for",
    ),
    "auto_find_batch_size": (
        "tests/trainer/test_batch_size.py::test_a_run_that_does_not_fit_becomes_the_run_of_the_size_that_does",
    ),
    "remove_unused_columns": (f"{_DATA}test_the_collator_sees_what_the_model_takes",),
    "label_names": (f"{_DEVICES}test_a_batch_holds_what_the_model_takes_and_the_labels",),
    "load_best_model_at_end": (f"{_LOOP}test_the_best_weights_are_loaded_only_when_asked",),
    "metric_for_best_model": (f"{_LOOP}test_the_best_is_judged_by_the_metric_that_is_named",),
    "greater_is_better": (f"{_LOOP}test_the_best_is_the_least_or_the_greatest",),
    "group_by_length": (
        f"{_DATA}test_samples_come_in_the_references_order_beside_a_model_that_draws",
        f"{_DATA}test_a_resumed_run_whose_order_is_drawn_goes_on_with_the_samples_left",
    ),
    "length_column_name": (f"{_DATA}test_grouping_uses_the_column_of_lengths_that_is_named",),
    "sortish_sampler": (f"{_DATA}test_a_sortish_sampler_groups_the_training_samples_only",),
    "ignore_data_skip": (f"{_LOOP}test_a_resumed_epoch_starts_over_or_goes_on",),
    "accelerator_config": (
        _STEPS,
        _ENGINE,
        f"{_DEVICES}test_the_loaders_are_told",
        f"{_DEVICES}test_the_loop_is_told_to_sync_after_each_batch",
        f"{_DATA}test_a_key_of_accelerator_config_reaches_the_loaders",
        "tests/distributed/test_loaders.py::test_batches_and_draws_are_those_of_accelerate",
    ),
    "optim": (f"{_UPDATES}test_the_optimizer_is_the_one_that_is_named",),
    "optim_args": (_OPTIMIZER,),
    "adafactor": (f"{_UPDATES}test_the_old_spelling_of_adafactor_acts_in_a_run",),
    "ddp_find_unused_parameters": (
        _ENGINE,
        _DDP_OPTIONS,
        "tests/distributed/test_engine_ddp.py::test_training_equals_one_process_with_the_whole_batch",
    ),
    "ddp_bucket_cap_mb": (_ENGINE, _DDP_OPTIONS),
    "ddp_broadcast_buffers": (_ENGINE, _DDP_OPTIONS),
    "dataloader_pin_memory": (f"{_DEVICES}test_the_loaders_are_told",),
    "dataloader_persistent_workers": (_WORKERS,),
    "gradient_checkpointing": (_RECOMPUTES,),
    "gradient_checkpointing_kwargs": (_RECOMPUTES,),
    "eval_do_concat_batches": (f"{_EVALUATION}test_batches_may_stay_apart",),
    "include_for_metrics": (f"{_EVALUATION}test_the_metric_function_gets_the_inputs_when_asked",),
    "include_inputs_for_metrics": (f"{_EVALUATION}test_the_metric_function_gets_the_inputs_when_asked",),
    "batch_eval_metrics": (f"{_EVALUATION}test_a_metric_function_may_be_called_batch_by_batch",),
    "eval_use_gather_object": (f"{_EVALUATION}test_objects_are_gathered_when_asked",),
    "jit_mode_eval": (f"{_EVALUATION}test_the_model_is_traced_when_asked",),
    "use_legacy_prediction_loop": (f"{_EVALUATION}test_the_older_loop_is_called_when_asked",),
    "fp16_backend": (f"{_DEVICES}test_an_autocast_backend_of_another_device_is_refused",),
    "_n_gpu": ("tests/args/test_environment.py::test_a_script_may_say_how_many_gpus_it_uses",),
    "full_determinism": (f"{_UPDATES}test_a_run_may_be_fully_deterministic",),
    "torchdynamo": (f"{_UPDATES}test_the_old_spelling_of_the_compile_backend_acts_in_a_run",),
    "ddp_timeout": (_ENGINE, _GROUP),
    "torch_compile": (_COMPILED, _COMPILES),
    "torch_compile_backend": (_COMPILED, _COMPILES),
    "torch_compile_mode": (_COMPILED,),
    "eval_on_start": (_ROWS, "tests/trainer/test_train.py::test_eval_on_start_comes_before_the_first_step"),
    "predict_with_generate": (_GENERATES, f"{_SEQ2SEQ}test_without_generating_it_is_a_trainer"),
    "generation_max_length": (_GENERATES,),
    "generation_num_beams": (f"{_SEQ2SEQ}test_the_arguments_of_generating_reach_generate",),
    "generation_config": (_GENERATES, f"{_SEQ2SEQ}test_every_new_model_gets_the_configuration"),
    "past_index": (f"{_STEP}test_outputs_of_the_batch_before_come_back_as_memories",),
    "label_smoothing_factor": (f"{_STEP}test_label_smoothing_acts_on_the_logits",),
    "neftune_noise_alpha": (
        "tests/trainer/test_noise.py::test_noise_is_uniform_within_alpha_over_the_root_of_length_times_width",
    ),
    "average_tokens_across_devices": (
        "tests/distributed/test_steps_ddp.py::test_the_loss_is_weighted_over_all_processes_only_when_that_is_asked",
    ),
    "include_num_input_tokens_seen": (
        "tests/trainer/test_counters.py::test_tokens_seen_are_in_the_state_and_in_every_row",
    ),
    "include_tokens_per_second": (
        "tests/trainer/test_counters.py::test_tokens_per_second_are_of_what_was_read_and_read_nothing_twice",
    ),
}

# Every argument, or value of one, that is refused -> the test that it is.
REFUSALS: dict[str, str] = dict.fromkeys([*REFUSED_EXAMPLES, *PARTLY_REFUSED], _NOT_OFFERED)
