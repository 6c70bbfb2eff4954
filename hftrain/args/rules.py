"""Every rule about the arguments: ranges, choices, and what contradicts what.

A rule yields one sentence for each problem: what was asked, what was found, what to set. All problems of a set of
arguments are raised together. A rule names the arguments it reads, and is left out when one of them has no usable
value, so that a mistake is reported once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hftrain.args.accelerator import AcceleratorConfig
from hftrain.args.availability import ACCUMULATION_KEYS
from hftrain.args.conversion import suggestion
from hftrain.args.fields import shown
from hftrain.hardware.world import read_world
from hftrain.plugin_api.needs import report_lacks

if TYPE_CHECKING:
    from hftrain.args.training import TrainingArguments

Rule = Callable[[Any], Iterator[str]]

LOG_LEVELS = ("passive", "detail", "debug", "info", "warning", "error", "critical")
CHOICES: Mapping[str, tuple[str, ...]] = {
    "log_level": LOG_LEVELS,
    "log_level_replica": LOG_LEVELS,
    "half_precision_backend": ("auto", "cuda_amp", "cpu_amp", "apex"),
    "fp16_backend": ("auto", "cuda_amp", "cpu_amp", "apex"),
    "fp16_opt_level": ("O0", "O1", "O2", "O3"),
    "ddp_backend": ("nccl", "gloo", "mpi", "ccl", "hccl"),
    "verify_checkpoint": ("auto", "full", "sizes"),
    "tracker_errors": ("warn", "raise"),
    "report": ("html",),
}


@dataclass(frozen=True)
class Range:
    """The numbers an argument may be; ``high`` itself is allowed unless ``is_open``."""

    low: float
    high: float = math.inf
    is_open: bool = False

    def __contains__(self, number: float) -> bool:
        below = number < self.high if self.is_open or self.high == math.inf else number <= self.high
        return self.low <= number and below

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"at least {self.low}"
        return f"at least {self.low} and {'below' if self.is_open else 'at most'} {self.high}"


SEED = Range(0, 2**32 - 1)  # what numpy can be seeded with
RANGES: Mapping[str, Range] = {
    "per_device_train_batch_size": Range(1),
    "per_device_eval_batch_size": Range(1),
    "gradient_accumulation_steps": Range(1),
    "eval_accumulation_steps": Range(1),
    "torch_empty_cache_steps": Range(1),
    "eval_delay": Range(0),
    "learning_rate": Range(0),
    "weight_decay": Range(0),
    "adam_beta1": Range(0, 1, is_open=True),
    "adam_beta2": Range(0, 1, is_open=True),
    "adam_epsilon": Range(0),
    "warmup_ratio": Range(0, 1),
    "warmup_steps": Range(0),
    "seed": SEED,
    "data_seed": SEED,
    "ddp_timeout": Range(1),
    "ddp_bucket_cap_mb": Range(1),
    "dataloader_num_workers": Range(0),
    "dataloader_prefetch_factor": Range(1),
    "save_minutes": Range(0),
    "save_keep_every_steps": Range(1),
    "deadline_minutes": Range(0),
    "tracker_close_s": Range(0),
}

RULES: list[tuple[tuple[str, ...], Rule]] = []


def reads(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule, with the arguments it reads."""

    def register(rule: Rule) -> Rule:
        RULES.append((names, rule))
        return rule

    return register


def problems(args: TrainingArguments, *, except_for: set[str]) -> Iterator[str]:
    """Every problem, as a sentence; nothing that reads an argument of ``except_for`` is looked at."""
    for name, allowed in RANGES.items():
        value = getattr(args, name)
        if name not in except_for and value is not None and value not in allowed:
            yield f"{shown(name, value)} must be {allowed}."
    for name, choices in CHOICES.items():
        value = getattr(args, name)
        if name not in except_for and value is not None and value not in choices:
            yield f"{shown(name, value)} is not known. {suggestion(value, choices)}"
    for names, rule in RULES:
        if except_for.isdisjoint(names):
            yield from rule(args)


@reads("output_dir")
def _output_dir_names_a_folder(args: Any) -> Iterator[str]:
    if not args.output_dir:
        yield "output_dir='' names no folder. Set one, or None for 'trainer_output'."


@reads("fp16_opt_level", "half_precision_backend")
def _levels_are_apexes(args: Any) -> Iterator[str]:
    if args.fp16_opt_level != "O1" and args.half_precision_backend != "apex":
        yield (
            f"fp16_opt_level={args.fp16_opt_level!r} is a level of Apex, and half_precision_backend is "
            f"{args.half_precision_backend!r}. Set half_precision_backend='apex', or fp16_opt_level='O1'."
        )


@reads("half_precision_backend", "use_ipex", "tpu_num_cores")
def _one_vendor_takes_part(args: Any) -> Iterator[str]:
    asked = {
        "half_precision_backend='apex'": args.half_precision_backend == "apex",
        "use_ipex=True": args.use_ipex,
        "tpu_num_cores": args.tpu_num_cores is not None,
    }
    named = [name for name, is_asked in asked.items() if is_asked]
    if len(named) > 1:
        yield f"{' and '.join(named)} are of different devices. Set one of them."


@reads("include_for_metrics")
def _metrics_include_what_there_is(args: Any) -> Iterator[str]:
    for word in args.include_for_metrics:
        if word not in ("inputs", "loss"):
            yield f"include_for_metrics has {word!r}, which is not known. {suggestion(word, ('inputs', 'loss'))}"


@reads("num_train_epochs", "max_steps")
def _the_run_has_an_end(args: Any) -> Iterator[str]:
    if args.max_steps <= 0 and not 0 <= args.num_train_epochs < math.inf:
        yield (
            f"num_train_epochs={args.num_train_epochs} is no number of epochs, and max_steps={args.max_steps} sets no "
            "number of steps. Set num_train_epochs to at least 0, or max_steps above 0."
        )


def _steps_problem(args: Any, action: str, strategy: str, least: int) -> Iterator[str]:
    name = f"{action}_steps"
    steps = getattr(args, name)
    if getattr(args, strategy) != "steps" or steps is None or steps == 0:
        return
    if not math.isfinite(steps) or steps < least:
        yield f"{name}={steps} is no number of updates. Set it above 0, or {strategy}='no'."
    elif steps > 1 and steps != int(steps):
        yield (
            f"{name}={steps} is neither a number of updates nor a part of all of them. "
            f"Set {name}={round(steps)}, or a number between 0 and 1."
        )


@reads("logging_strategy", "logging_steps")
def _logging_steps(args: Any) -> Iterator[str]:
    if args.logging_strategy == "steps" and args.logging_steps == 0:
        yield "logging_strategy='steps' needs logging_steps, which is 0. Set it above 0, or logging_strategy='no'."
    yield from _steps_problem(args, "logging", "logging_strategy", 0)


@reads("eval_strategy", "eval_steps", "logging_steps")
def _eval_steps(args: Any) -> Iterator[str]:
    if args.eval_strategy == "steps" and not args.eval_steps:
        yield (
            "eval_strategy='steps' needs eval_steps, which is 0, and so is logging_steps, its default. "
            "Set eval_steps above 0, or eval_strategy='epoch'."
        )
    # An invalid logging_steps that became eval_steps is told about once, as logging_steps.
    is_told = args.eval_steps == args.logging_steps and args.logging_strategy == "steps"
    if not is_told:
        yield from _steps_problem(args, "eval", "eval_strategy", 0)


@reads("save_strategy", "save_steps")
def _save_steps(args: Any) -> Iterator[str]:
    yield from _steps_problem(args, "save", "save_strategy", -(2**63))


@reads("load_best_model_at_end", "eval_strategy", "save_strategy", "eval_steps", "save_steps")
def _every_saved_model_is_evaluated(args: Any) -> Iterator[str]:
    if not args.load_best_model_at_end or args.save_strategy == "best":
        return
    evaluation, saving = str(args.eval_strategy.value), str(args.save_strategy.value)
    if evaluation != saving:
        yield (
            f"eval_strategy={evaluation!r} and save_strategy={saving!r} differ, and load_best_model_at_end=True needs "
            f"every saved model to have been evaluated. Set both alike, or save_strategy='best'."
        )
    elif evaluation == "steps" and args.eval_steps and not _is_multiple(args.save_steps, args.eval_steps):
        yield _uneven_steps(args.save_steps, args.eval_steps)


def _is_multiple(save_steps: float, eval_steps: float) -> bool:
    """Whether a save always falls on an evaluation; a ratio of steps is compared as a ratio."""
    if eval_steps >= 1:
        return save_steps % eval_steps == 0
    if save_steps >= 1:  # accepted by the reference: how often that ratio is can be told when the length is known
        return True
    quotient = save_steps / eval_steps
    return math.isclose(quotient, round(quotient), abs_tol=1e-9)


def _uneven_steps(save_steps: float, eval_steps: float) -> str:
    found = f"save_steps={save_steps} is not a multiple of eval_steps={eval_steps}"
    if save_steps < 1 <= eval_steps:
        found = f"save_steps={save_steps} is a part of all updates and eval_steps={eval_steps} a number of them"
        instead = "both as numbers of updates"
    else:
        nearest = eval_steps * max(1, math.ceil(save_steps / eval_steps))
        instead = f"save_steps={nearest:.6g}"
    return (
        f"{found}, and load_best_model_at_end=True needs every saved model to have been evaluated. "
        f"Set {instead}, or load_best_model_at_end=False."
    )


@reads("save_strategy", "metric_for_best_model")
def _saving_the_best_needs_a_metric(args: Any) -> Iterator[str]:
    if args.save_strategy == "best" and args.metric_for_best_model is None:
        yield (
            "save_strategy='best' needs metric_for_best_model, which is not set. "
            "Set it to a metric of the evaluation, such as 'loss'."
        )


@reads("lr_scheduler_type", "eval_strategy")
def _plateaus_are_seen_in_evaluations(args: Any) -> Iterator[str]:
    if args.lr_scheduler_type == "reduce_lr_on_plateau" and args.eval_strategy == "no":
        yield (
            "lr_scheduler_type='reduce_lr_on_plateau' follows an evaluation metric, and eval_strategy is 'no'. "
            "Set eval_strategy='epoch' or 'steps'."
        )


@reads("optim_args")
def _optim_args_are_assignments(args: Any) -> Iterator[str]:
    for part in (args.optim_args or "").replace(" ", "").split(","):
        if part and not re.fullmatch(r"[^=]+=.*", part):
            yield f"optim_args={args.optim_args!r}: {part!r} assigns nothing. Write 'name=value,name=value'."


@reads("bf16", "fp16", "bf16_full_eval", "fp16_full_eval")
def _one_half_precision(args: Any) -> Iterator[str]:
    if args.bf16 and args.fp16:
        yield "bf16=True and fp16=True exclude each other. Set one of them: bf16 where the device has it."
    if args.bf16_full_eval and args.fp16_full_eval:
        yield "bf16_full_eval=True and fp16_full_eval=True exclude each other. Set one of them."


@reads("fp16", "use_cpu", "half_precision_backend")
def _fp16_needs_an_accelerator(args: Any) -> Iterator[str]:
    if args.fp16 and args.use_cpu:
        yield "fp16=True needs a GPU, and use_cpu=True. Set bf16=True instead of fp16, or use_cpu=False."
    elif args.fp16 and args.half_precision_backend == "cpu_amp":
        yield "fp16=True needs a GPU, and half_precision_backend='cpu_amp'. Set bf16=True, or the backend to 'auto'."


@reads("bf16", "fp16", "use_cpu", "half_precision_backend")
def _cuda_amp_needs_cuda(args: Any) -> Iterator[str]:
    if args.half_precision_backend == "cuda_amp" and args.use_cpu and args.bf16:
        yield "half_precision_backend='cuda_amp' and use_cpu=True exclude each other. Set 'auto', or use_cpu=False."


@reads("use_cpu", "tf32", "use_mps_device", "ddp_backend")
def _the_cpu_has_neither(args: Any) -> Iterator[str]:
    gpu_only = {"tf32": True, "use_mps_device": True, "ddp_backend": "nccl"}
    for name, value in gpu_only.items():
        if args.use_cpu and getattr(args, name) == value:
            yield f"{shown(name, value)} needs a GPU, and use_cpu=True. Leave one of them out."


@reads("dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers")
def _workers(args: Any) -> Iterator[str]:
    if args.dataloader_num_workers != 0:
        return
    if args.dataloader_prefetch_factor is not None:
        yield (
            f"dataloader_prefetch_factor={args.dataloader_prefetch_factor} is for workers, and "
            "dataloader_num_workers=0. Set dataloader_num_workers above 0, or leave the factor out."
        )
    if args.dataloader_persistent_workers:
        yield (
            "dataloader_persistent_workers=True keeps workers, and dataloader_num_workers=0. "
            "Set dataloader_num_workers above 0, or dataloader_persistent_workers=False."
        )


@reads("accelerator_config", "gradient_accumulation_steps")
def _accumulation_is_said_once(args: Any) -> Iterator[str]:
    config: AcceleratorConfig = args.accelerator_config
    for key in config.gradient_accumulation_kwargs or {}:
        if key not in ACCUMULATION_KEYS:
            yield (
                f"accelerator_config's gradient_accumulation_kwargs have no key {key!r}. "
                f"{suggestion(key, ACCUMULATION_KEYS)}"
            )
    num_steps = config.num_steps
    if num_steps is not None and (type(num_steps) is not int or num_steps < 1):
        yield f"accelerator_config's num_steps={num_steps!r} must be an integer above 0."
    elif num_steps is not None and args.gradient_accumulation_steps != num_steps:
        yield (
            f"gradient_accumulation_steps={args.gradient_accumulation_steps} and accelerator_config's "
            f"num_steps={num_steps} contradict each other. Set one of them."
        )


@reads("accelerator_config", "per_device_train_batch_size")
def _a_split_batch_gives_everyone_the_same(args: Any) -> Iterator[str]:
    world_size = read_world().world_size
    if args.accelerator_config.split_batches and args.per_device_train_batch_size % world_size:
        yield (
            f"per_device_train_batch_size={args.per_device_train_batch_size} cannot be split over {world_size} "
            "processes, and accelerator_config's split_batches=True. Set a multiple of that number."
        )


@reads("auto_find_batch_size", "auto_batch_keep_global")
def _a_batch_that_is_kept_is_looked_for(args: Any) -> Iterator[str]:
    if args.auto_batch_keep_global and not args.auto_find_batch_size:
        yield (
            "auto_batch_keep_global=True says what auto_find_batch_size does, and that is False. "
            "Set auto_find_batch_size=True, or leave the other out."
        )


@reads("report")
def _a_page_has_a_script(args: Any) -> Iterator[str]:
    lacking = report_lacks() if args.report == "html" else None
    if lacking is not None:
        yield f"report='html' needs {lacking}, or leave report out."


@reads("local_rank")
def _local_rank_is_this_process(args: Any) -> Iterator[str]:
    rank = read_world().local_process_index
    if args.local_rank not in (-1, rank):
        yield (
            f"local_rank={args.local_rank}, but this is local process {rank} by what the launcher set. "
            "Leave local_rank out, and start with torchrun."
        )


@reads("max_shard_size")
def _shard_size(args: Any) -> Iterator[str]:
    found = re.fullmatch(r"\s*(\d+(\.\d+)?)\s*([kmgt]i?)?b?\s*", args.max_shard_size, re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        yield f"max_shard_size={args.max_shard_size!r} is no size. Set it like '5GB', '500MB' or '512MiB'."
