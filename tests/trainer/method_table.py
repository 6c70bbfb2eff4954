"""Every public method of the reference's two trainers, and the test that shows what it does here."""

from __future__ import annotations

METHODS: dict[str, str] = {
    "__init__": "tests/trainer/test_construction.py::test_the_default_collator_pads_for_a_tokenizer",
    "add_callback": "tests/trainer/test_trainer.py::test_callbacks_are_added_popped_and_removed",
    "autocast_smart_context_manager": "tests/trainer/test_trainer.py::test_the_context_of_the_loss_is_the_precisions",
    "call_model_init": "tests/trainer/test_trainer.py::test_a_model_can_be_asked_for",
    "compare_trainer_and_checkpoint_args": (
        "tests/trainer/test_save_methods.py::test_arguments_that_are_not_the_checkpoints_are_warned_of"
    ),
    "compute_loss": "tests/trainer/test_train.py::test_a_plain_module_trains_through_training_step_and_compute_loss",
    "compute_loss_context_manager": "tests/trainer/test_trainer.py::test_the_context_of_the_loss_is_the_precisions",
    "create_accelerator_and_postprocess": (
        "tests/trainer/test_accelerator.py::test_a_subclass_may_put_another_in_its_place"
    ),
    "create_model_card": "tests/trainer/test_later_methods.py::test_a_script_that_ends_with_a_model_card_ends_well",
    "create_optimizer": "tests/trainer/test_optim_methods.py::test_an_override_of_class_and_arguments_acts",
    "create_optimizer_and_scheduler": "tests/trainer/test_overrides_called.py::test_a_run_calls_the_override",
    "create_scheduler": "tests/trainer/test_overrides_called.py::test_a_run_calls_the_override",
    "evaluate": "tests/trainer/test_evaluation.py::test_the_loss_is_the_mean_over_samples_for_any_loader",
    "evaluation_loop": (
        "tests/trainer/test_evaluation.py::test_overrides_of_evaluation_take_effect_in_the_middle_of_a_run"
    ),
    "floating_point_ops": "tests/trainer/test_counters.py::test_operations_are_summed_up_as_the_model_says",
    "get_batch_samples": (
        "tests/trainer/test_step_methods.py::test_an_override_draws_the_batches_and_counts_as_it_likes"
    ),
    "get_decay_parameter_names": "tests/trainer/test_optim_methods.py::test_groups_and_rates_can_be_asked_for",
    "get_eval_dataloader": "tests/trainer/test_data_methods.py::test_a_named_evaluation_set_has_its_loader",
    "get_learning_rates": "tests/trainer/test_optim_methods.py::test_groups_and_rates_can_be_asked_for",
    "get_num_trainable_parameters": "tests/trainer/test_optim_methods.py::test_groups_and_rates_can_be_asked_for",
    "get_optimizer_cls_and_kwargs": (
        "tests/trainer/test_optim_methods.py::test_the_optimizer_of_the_arguments_can_be_asked_for"
    ),
    "get_optimizer_group": "tests/trainer/test_optim_methods.py::test_groups_and_rates_can_be_asked_for",
    "get_test_dataloader": "tests/trainer/test_data_methods.py::test_loaders_are_torchs_and_have_what_scripts_read",
    "get_total_train_batch_size": "tests/trainer/test_run_length.py::test_the_size_of_a_step_counts_the_whole_window",
    "get_tp_size": "tests/trainer/test_trainer.py::test_a_layer_is_whole_on_every_process",
    "get_train_dataloader": "tests/trainer/test_data_methods.py::test_a_loader_without_a_data_set_trains",
    "hyperparameter_search": "tests/trainer/test_later_methods.py::test_a_method_of_a_later_version_says_so",
    "init_hf_repo": "tests/trainer/test_later_methods.py::test_a_method_of_a_later_version_says_so",
    "is_local_process_zero": "tests/trainer/test_trainer.py::test_the_main_process_knows_that_it_is",
    "is_world_process_zero": "tests/trainer/test_trainer.py::test_the_main_process_knows_that_it_is",
    "load_generation_config": "tests/trainer/test_overrides_called.py::test_a_run_calls_the_override",
    "log": "tests/trainer/test_train.py::test_rows_have_the_documented_keys",
    "log_metrics": "tests/trainer/test_report.py::test_the_table_is_the_references",
    "metrics_format": "tests/trainer/test_report.py::test_metrics_are_formatted_as_the_reference_formats_them",
    "num_examples": "tests/trainer/test_data_methods.py::test_examples_are_counted_in_the_data_set_or_estimated",
    "num_tokens": "tests/trainer/test_counters.py::test_tokens_of_a_loader_can_be_counted_by_going_through_it",
    "pop_callback": "tests/trainer/test_trainer.py::test_callbacks_are_added_popped_and_removed",
    "predict": "tests/trainer/test_evaluation.py::test_without_labels_predict_gives_predictions_and_no_loss",
    "prediction_loop": "tests/trainer/test_evaluation.py::test_the_older_loop_is_called_when_asked",
    "prediction_step": (
        "tests/trainer/test_evaluation.py::test_overrides_of_evaluation_take_effect_in_the_middle_of_a_run"
    ),
    "propagate_args_to_deepspeed": "tests/trainer/test_later_methods.py::test_a_method_of_a_later_version_says_so",
    "push_to_hub": "tests/trainer/test_later_methods.py::test_a_method_of_a_later_version_says_so",
    "remove_callback": "tests/trainer/test_trainer.py::test_callbacks_are_added_popped_and_removed",
    "save_metrics": "tests/trainer/test_report.py::test_result_files_are_the_references",
    "save_model": "tests/trainer/test_save.py::test_a_plain_modules_weights_can_be_read_by_anyone",
    "save_state": "tests/trainer/test_report.py::test_the_state_is_written_where_the_run_is",
    "set_initial_training_values": "tests/trainer/test_run_length.py::test_an_override_decides_how_long_a_run_is",
    "store_flos": "tests/trainer/test_counters.py::test_operations_are_stored_with_each_row_and_checkpoint",
    "tokenizer": "tests/trainer/test_construction.py::test_tokenizer_is_the_old_name_of_processing_class",
    "torch_jit_model_eval": "tests/trainer/test_evaluation.py::test_the_model_is_traced_when_asked",
    "train": "tests/trainer/test_train.py::test_training_equals_a_loop_written_by_hand",
    "training_step": "tests/trainer/test_train.py::test_a_plain_module_trains_through_training_step_and_compute_loss",
}
