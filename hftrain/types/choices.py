"""The words that arguments accept, and the events of a run.

Every choice is also the string it stands for: ``IntervalStrategy.STEPS == "steps"``.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from hftrain.errors import ConfigurationError


class ExplicitEnum(str, Enum):  # noqa: UP042  (str() of a StrEnum is its value, of a documented choice its name)
    """A choice of strings whose error lists what may be chosen."""

    # Enum hashes in Python; the string's own hash is the one that agrees with ==, and runs in C.
    __hash__ = str.__hash__

    @classmethod
    def _missing_(cls, value: object) -> Any:
        if isinstance(value, Enum):  # the same choice, from another library's enum
            return cls(value.value)
        choices = ", ".join(repr(member.value) for member in cls)
        raise ConfigurationError(f"{value!r} is no {cls.__name__}: choose one of {choices}.")


class IntervalStrategy(ExplicitEnum):
    """When to log and when to evaluate."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"


class SaveStrategy(ExplicitEnum):
    """When to write a checkpoint."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"
    BEST = "best"


class SchedulerType(ExplicitEnum):
    """The learning rate schedules."""

    LINEAR = "linear"
    COSINE = "cosine"
    COSINE_WITH_RESTARTS = "cosine_with_restarts"
    POLYNOMIAL = "polynomial"
    CONSTANT = "constant"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"
    INVERSE_SQRT = "inverse_sqrt"
    REDUCE_ON_PLATEAU = "reduce_lr_on_plateau"
    COSINE_WITH_MIN_LR = "cosine_with_min_lr"
    WARMUP_STABLE_DECAY = "warmup_stable_decay"


class OptimizerNames(ExplicitEnum):
    """The optimizers that ``optim`` may name; most come with a plugin."""

    ADAMW_TORCH = "adamw_torch"
    ADAMW_TORCH_FUSED = "adamw_torch_fused"
    ADAMW_TORCH_XLA = "adamw_torch_xla"
    ADAMW_TORCH_NPU_FUSED = "adamw_torch_npu_fused"
    ADAMW_APEX_FUSED = "adamw_apex_fused"
    ADAFACTOR = "adafactor"
    ADAMW_ANYPRECISION = "adamw_anyprecision"
    ADAMW_TORCH_4BIT = "adamw_torch_4bit"
    ADAMW_TORCH_8BIT = "adamw_torch_8bit"
    ADEMAMIX = "ademamix"
    SGD = "sgd"
    ADAGRAD = "adagrad"
    ADAMW_BNB = "adamw_bnb_8bit"
    ADAMW_8BIT = "adamw_8bit"
    ADEMAMIX_8BIT = "ademamix_8bit"
    LION_8BIT = "lion_8bit"
    LION = "lion_32bit"
    PAGED_ADAMW = "paged_adamw_32bit"
    PAGED_ADAMW_8BIT = "paged_adamw_8bit"
    PAGED_ADEMAMIX = "paged_ademamix_32bit"
    PAGED_ADEMAMIX_8BIT = "paged_ademamix_8bit"
    PAGED_LION = "paged_lion_32bit"
    PAGED_LION_8BIT = "paged_lion_8bit"
    RMSPROP = "rmsprop"
    RMSPROP_BNB = "rmsprop_bnb"
    RMSPROP_8BIT = "rmsprop_bnb_8bit"
    RMSPROP_32BIT = "rmsprop_bnb_32bit"
    GALORE_ADAMW = "galore_adamw"
    GALORE_ADAMW_8BIT = "galore_adamw_8bit"
    GALORE_ADAFACTOR = "galore_adafactor"
    GALORE_ADAMW_LAYERWISE = "galore_adamw_layerwise"
    GALORE_ADAMW_8BIT_LAYERWISE = "galore_adamw_8bit_layerwise"
    GALORE_ADAFACTOR_LAYERWISE = "galore_adafactor_layerwise"
    LOMO = "lomo"
    ADALOMO = "adalomo"
    GROKADAMW = "grokadamw"
    SCHEDULE_FREE_RADAM = "schedule_free_radam"
    SCHEDULE_FREE_ADAMW = "schedule_free_adamw"
    SCHEDULE_FREE_SGD = "schedule_free_sgd"
    APOLLO_ADAMW = "apollo_adamw"
    APOLLO_ADAMW_LAYERWISE = "apollo_adamw_layerwise"


class HubStrategy(ExplicitEnum):
    """What is pushed to a hub, and when."""

    END = "end"
    EVERY_SAVE = "every_save"
    CHECKPOINT = "checkpoint"
    ALL_CHECKPOINTS = "all_checkpoints"


class DebugOption(ExplicitEnum):
    """The debugging aids that ``debug`` may name."""

    UNDERFLOW_OVERFLOW = "underflow_overflow"
    TPU_METRICS_DEBUG = "tpu_metrics_debug"


class FSDPOption(ExplicitEnum):
    """The sharding options that ``fsdp`` may name."""

    FULL_SHARD = "full_shard"
    SHARD_GRAD_OP = "shard_grad_op"
    NO_SHARD = "no_shard"
    HYBRID_SHARD = "hybrid_shard"
    HYBRID_SHARD_ZERO2 = "hybrid_shard_zero2"
    OFFLOAD = "offload"
    AUTO_WRAP = "auto_wrap"


class HPSearchBackend(ExplicitEnum):
    """The hyperparameter search backends."""

    OPTUNA = "optuna"
    RAY = "ray"
    SIGOPT = "sigopt"
    WANDB = "wandb"


class ParallelMode(Enum):
    """How a run is spread over devices; not a string, as in the reference."""

    NOT_PARALLEL = "not_parallel"
    NOT_DISTRIBUTED = "not_distributed"
    DISTRIBUTED = "distributed"
    SAGEMAKER_MODEL_PARALLEL = "sagemaker_model_parallel"
    SAGEMAKER_DATA_PARALLEL = "sagemaker_data_parallel"
    TPU = "tpu"


class Event(ExplicitEnum):
    """Everything a run tells its callbacks; the value is the name of the callback's method.

    The order, as pseudocode::

        INIT_END                                     the trainer is built
        TRAIN_BEGIN
        for each epoch:
            EPOCH_BEGIN
            for each step group:                     the micro-batches of one optimizer update
                STEP_BEGIN
                for each micro-batch:
                    forward and backward
                    SUBSTEP_END                      after all but the last
                clip the gradients
                PRE_OPTIMIZER_STEP
                optimizer step
                OPTIMIZER_STEP
                schedule, zero the gradients, count the step
                STEP_END                             the default flow asks to log, evaluate, save, stop
                if asked to log:       LOG
                if asked to evaluate:  PREDICTION_STEP for each batch, LOG, EVALUATE
                if asked to save:      write the checkpoint, SAVE
                if asked to stop:      leave both loops
            EPOCH_END                                the same three questions are asked again
        LOG                                          runtime and throughput
        TRAIN_END

    ``evaluate`` called alone is PREDICTION_STEP for each batch, LOG, EVALUATE; ``predict`` is
    PREDICTION_STEP for each batch, PREDICT.
    """

    INIT_END = "on_init_end"
    TRAIN_BEGIN = "on_train_begin"
    TRAIN_END = "on_train_end"
    EPOCH_BEGIN = "on_epoch_begin"
    EPOCH_END = "on_epoch_end"
    STEP_BEGIN = "on_step_begin"
    SUBSTEP_END = "on_substep_end"
    PRE_OPTIMIZER_STEP = "on_pre_optimizer_step"
    OPTIMIZER_STEP = "on_optimizer_step"
    STEP_END = "on_step_end"
    EVALUATE = "on_evaluate"
    PREDICT = "on_predict"
    SAVE = "on_save"
    LOG = "on_log"
    PREDICTION_STEP = "on_prediction_step"
