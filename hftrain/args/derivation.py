"""What nobody set, and follows from what somebody did."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from hftrain.args.accelerator import AcceleratorConfig
from hftrain.hardware.world import read_world

DEFAULT_OUTPUT_DIR = "trainer_output"


def derived(args: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of every argument that follows from others.

    The caller sets each before it asks for the next: later ones follow from earlier ones. Wrong values may still be
    among the arguments, so nothing here relies on a type.
    """
    if args.output_dir is None:
        yield "output_dir", DEFAULT_OUTPUT_DIR
    if args.run_name is None:
        yield "run_name", args.output_dir
    if args.logging_dir is None and isinstance(args.output_dir, str):
        yield "logging_dir", _dated_folder(args.output_dir)
    if args.local_rank == -1:
        yield "local_rank", read_world().local_process_index
    yield from _of_evaluation(args)
    yield from _of_the_best_model(args)
    yield from _of_running(args)


def _dated_folder(output_dir: str) -> str:
    """Return where TensorBoard's own writer would put a run that starts now on this machine."""
    return os.path.join(output_dir, "runs", f"{datetime.now().astimezone():%b%d_%H-%M-%S}_{socket.gethostname()}")


def _of_evaluation(args: Any) -> Iterator[tuple[str, Any]]:
    if args.eval_strategy != "no" and not args.do_eval:
        yield "do_eval", True
    if args.eval_strategy == "steps" and not args.eval_steps:
        yield "eval_steps", args.logging_steps


def _of_the_best_model(args: Any) -> Iterator[tuple[str, Any]]:
    needs_metric = args.load_best_model_at_end or args.lr_scheduler_type == "reduce_lr_on_plateau"
    if args.metric_for_best_model is None and needs_metric:
        yield "metric_for_best_model", "loss"
    if args.greater_is_better is None and args.metric_for_best_model is not None:
        yield "greater_is_better", not str(args.metric_for_best_model).endswith("loss")


def _of_running(args: Any) -> Iterator[tuple[str, Any]]:
    if args.use_cpu is True and args.dataloader_pin_memory is True:
        yield "dataloader_pin_memory", False
    if not args.torch_compile and (args.torch_compile_backend or args.torch_compile_mode):
        yield "torch_compile", True
    if args.torch_compile and args.torch_compile_backend is None:
        yield "torch_compile_backend", "inductor"
    if isinstance(args.save_total_limit, int) and args.save_total_limit <= 0:
        yield "save_total_limit", None
    config = args.accelerator_config
    if args.gradient_accumulation_steps == 1 and isinstance(config, AcceleratorConfig) and config.num_steps:
        yield "gradient_accumulation_steps", config.num_steps
