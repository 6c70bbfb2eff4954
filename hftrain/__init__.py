"""Train PyTorch models: a TaskModule says what is computed, a Trainer does the rest.

Every public name is imported from its module when it is first asked for (PEP 562), so that ``import hftrain`` loads
neither torch nor Lightning. Editors and type checkers read the same names under ``TYPE_CHECKING``; a test compares the
two lists.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hftrain._version import __version__ as __version__

if TYPE_CHECKING:
    from hftrain.args.parser import HfArgumentParser as HfArgumentParser
    from hftrain.args.seq2seq import Seq2SeqTrainingArguments as Seq2SeqTrainingArguments
    from hftrain.args.training import TrainingArguments as TrainingArguments
    from hftrain.callbacks.flow import DefaultFlowCallback as DefaultFlowCallback
    from hftrain.callbacks.progress import PrinterCallback as PrinterCallback
    from hftrain.callbacks.progress import ProgressCallback as ProgressCallback
    from hftrain.callbacks.stopping import EarlyStoppingCallback as EarlyStoppingCallback
    from hftrain.checkpoint.resume import get_last_checkpoint as get_last_checkpoint
    from hftrain.core.data import DataModule as DataModule
    from hftrain.core.speed import speed_metrics as speed_metrics
    from hftrain.core.task import TaskModule as TaskModule
    from hftrain.data.collators import DataCollatorWithPadding as DataCollatorWithPadding
    from hftrain.data.collators import DefaultDataCollator as DefaultDataCollator
    from hftrain.data.collators import default_data_collator as default_data_collator
    from hftrain.data.language import DataCollatorForLanguageModeling as DataCollatorForLanguageModeling
    from hftrain.data.language import DataCollatorForSeq2Seq as DataCollatorForSeq2Seq
    from hftrain.errors import HftrainError as HftrainError
    from hftrain.errors import TrainingInterrupted as TrainingInterrupted
    from hftrain.hardware.seeding import enable_full_determinism as enable_full_determinism
    from hftrain.hardware.seeding import set_seed as set_seed
    from hftrain.optim.adafactor import Adafactor as Adafactor
    from hftrain.optim.schedulers import get_adafactor_schedule as get_adafactor_schedule
    from hftrain.optim.schedulers import get_constant_schedule as get_constant_schedule
    from hftrain.optim.schedulers import get_constant_schedule_with_warmup as get_constant_schedule_with_warmup
    from hftrain.optim.schedulers import get_cosine_schedule_with_warmup as get_cosine_schedule_with_warmup
    from hftrain.optim.schedulers import (
        get_cosine_with_hard_restarts_schedule_with_warmup as get_cosine_with_hard_restarts_schedule_with_warmup,
    )
    from hftrain.optim.schedulers import (
        get_cosine_with_min_lr_schedule_with_warmup as get_cosine_with_min_lr_schedule_with_warmup,
    )
    from hftrain.optim.schedulers import get_inverse_sqrt_schedule as get_inverse_sqrt_schedule
    from hftrain.optim.schedulers import get_linear_schedule_with_warmup as get_linear_schedule_with_warmup
    from hftrain.optim.schedulers import (
        get_polynomial_decay_schedule_with_warmup as get_polynomial_decay_schedule_with_warmup,
    )
    from hftrain.optim.schedulers import get_reduce_on_plateau_schedule as get_reduce_on_plateau_schedule
    from hftrain.optim.schedulers import get_scheduler as get_scheduler
    from hftrain.optim.schedulers import get_wsd_schedule as get_wsd_schedule
    from hftrain.trainer.search import default_compute_objective as default_compute_objective
    from hftrain.trainer.search import default_hp_space_optuna as default_hp_space_optuna
    from hftrain.trainer.search import default_hp_space_ray as default_hp_space_ray
    from hftrain.trainer.search import default_hp_space_sigopt as default_hp_space_sigopt
    from hftrain.trainer.search import default_hp_space_wandb as default_hp_space_wandb
    from hftrain.trainer.seq2seq import Seq2SeqTrainer as Seq2SeqTrainer
    from hftrain.trainer.trainer import Trainer as Trainer
    from hftrain.types.callback import TrainerCallback as TrainerCallback
    from hftrain.types.choices import DebugOption as DebugOption
    from hftrain.types.choices import Event as Event
    from hftrain.types.choices import HPSearchBackend as HPSearchBackend
    from hftrain.types.choices import HubStrategy as HubStrategy
    from hftrain.types.choices import IntervalStrategy as IntervalStrategy
    from hftrain.types.choices import OptimizerNames as OptimizerNames
    from hftrain.types.choices import ParallelMode as ParallelMode
    from hftrain.types.choices import SaveStrategy as SaveStrategy
    from hftrain.types.choices import SchedulerType as SchedulerType
    from hftrain.types.control import ExportableState as ExportableState
    from hftrain.types.control import TrainerControl as TrainerControl
    from hftrain.types.outputs import BestRun as BestRun
    from hftrain.types.outputs import EvalLoopOutput as EvalLoopOutput
    from hftrain.types.outputs import EvalPrediction as EvalPrediction
    from hftrain.types.outputs import PredictionOutput as PredictionOutput
    from hftrain.types.outputs import TrainOutput as TrainOutput
    from hftrain.types.state import TrainerState as TrainerState

_HOME = {
    "Adafactor": "hftrain.optim.adafactor",
    "BestRun": "hftrain.types.outputs",
    "DataCollatorForLanguageModeling": "hftrain.data.language",
    "DataCollatorForSeq2Seq": "hftrain.data.language",
    "DataCollatorWithPadding": "hftrain.data.collators",
    "DataModule": "hftrain.core.data",
    "DebugOption": "hftrain.types.choices",
    "DefaultDataCollator": "hftrain.data.collators",
    "DefaultFlowCallback": "hftrain.callbacks.flow",
    "EarlyStoppingCallback": "hftrain.callbacks.stopping",
    "EvalLoopOutput": "hftrain.types.outputs",
    "EvalPrediction": "hftrain.types.outputs",
    "Event": "hftrain.types.choices",
    "ExportableState": "hftrain.types.control",
    "HPSearchBackend": "hftrain.types.choices",
    "HfArgumentParser": "hftrain.args.parser",
    "HftrainError": "hftrain.errors",
    "HubStrategy": "hftrain.types.choices",
    "IntervalStrategy": "hftrain.types.choices",
    "OptimizerNames": "hftrain.types.choices",
    "ParallelMode": "hftrain.types.choices",
    "PredictionOutput": "hftrain.types.outputs",
    "PrinterCallback": "hftrain.callbacks.progress",
    "ProgressCallback": "hftrain.callbacks.progress",
    "SaveStrategy": "hftrain.types.choices",
    "SchedulerType": "hftrain.types.choices",
    "Seq2SeqTrainer": "hftrain.trainer.seq2seq",
    "Seq2SeqTrainingArguments": "hftrain.args.seq2seq",
    "TaskModule": "hftrain.core.task",
    "TrainOutput": "hftrain.types.outputs",
    "Trainer": "hftrain.trainer.trainer",
    "TrainerCallback": "hftrain.types.callback",
    "TrainerControl": "hftrain.types.control",
    "TrainerState": "hftrain.types.state",
    "TrainingArguments": "hftrain.args.training",
    "TrainingInterrupted": "hftrain.errors",
    "default_compute_objective": "hftrain.trainer.search",
    "default_data_collator": "hftrain.data.collators",
    "default_hp_space_optuna": "hftrain.trainer.search",
    "default_hp_space_ray": "hftrain.trainer.search",
    "default_hp_space_sigopt": "hftrain.trainer.search",
    "default_hp_space_wandb": "hftrain.trainer.search",
    "enable_full_determinism": "hftrain.hardware.seeding",
    "get_adafactor_schedule": "hftrain.optim.schedulers",
    "get_constant_schedule": "hftrain.optim.schedulers",
    "get_constant_schedule_with_warmup": "hftrain.optim.schedulers",
    "get_cosine_schedule_with_warmup": "hftrain.optim.schedulers",
    "get_cosine_with_hard_restarts_schedule_with_warmup": "hftrain.optim.schedulers",
    "get_cosine_with_min_lr_schedule_with_warmup": "hftrain.optim.schedulers",
    "get_inverse_sqrt_schedule": "hftrain.optim.schedulers",
    "get_last_checkpoint": "hftrain.checkpoint.resume",
    "get_linear_schedule_with_warmup": "hftrain.optim.schedulers",
    "get_polynomial_decay_schedule_with_warmup": "hftrain.optim.schedulers",
    "get_reduce_on_plateau_schedule": "hftrain.optim.schedulers",
    "get_scheduler": "hftrain.optim.schedulers",
    "get_wsd_schedule": "hftrain.optim.schedulers",
    "set_seed": "hftrain.hardware.seeding",
    "speed_metrics": "hftrain.core.speed",
}

if not TYPE_CHECKING:
    __all__ = list(_HOME)

    def __getattr__(name: str) -> Any:
        """Import a public name from its module, once: afterwards it is an ordinary attribute."""
        if name not in _HOME:
            raise _missing(name)
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def _missing(name: str) -> AttributeError | ImportError:
    """The error for a name that is not here; for one of transformers' names it gives the import line that works.

    ``from hftrain import X`` drops an AttributeError and its text, so it gets an ImportError, while ``hasattr`` and
    ``getattr`` need the AttributeError. The machinery behind ``from`` asks from its own frame.
    """
    from hftrain.types.transformers_names import import_line

    text = f"module {__name__!r} has no attribute {name!r}"
    line = import_line(name)
    if line is None:
        return AttributeError(text)
    text += f"; transformers' own names are imported from there: {line}"
    is_from_import = sys._getframe(2).f_globals.get("__name__") == "importlib._bootstrap"
    return ImportError(text, name=__name__) if is_from_import else AttributeError(text)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
