"""The trackers of a Trainer: found by the names in ``report_to``, told of each run from its beginning to its end."""

from __future__ import annotations

import json
import logging
import os
import re
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from hftrain.args.conversion import FoundTrackers
from hftrain.callbacks.tracking import Tracking, TrackingSettings
from hftrain.checkpoint.layout import new_run_id
from hftrain.core.task import TaskModule
from hftrain.core.timing import StepTimes
from hftrain.errors import ConfigurationError, PluginUnavailableError, TrainingInterrupted
from hftrain.plugin_api.registry import Kind, registry
from hftrain.plugin_api.runs import local_folder
from hftrain.plugin_api.secret_texts import longest_first, surrounding_secrets
from hftrain.plugin_api.tracker import Run, Status, Tracker
from hftrain.plugin_api.values import is_secret_key, masked
from hftrain.plugin_api.worker import text_of
from hftrain.trainer.environment import environment_of
from hftrain.trainer.final_model import tell_final_model
from hftrain.trainer.report_page import write_report
from hftrain.trainer.run_copy import RunCopy, close_within, copy_of_run

if TYPE_CHECKING:
    from hftrain.args.training import TrainingArguments
    from hftrain.trainer.trainer import Trainer

logger = logging.getLogger(__name__)

_SECRET_ARGUMENT = re.compile(r"(token|api_?key|access_?key|secret|password)$", re.IGNORECASE)
_PRUNED = "TrialPruned"
"""What a search raises to end a trial that is not promising; its package need not be there."""


def tracking_for(trainer: Trainer) -> Tracking | None:
    """Return what reports the Trainer's runs; None if nobody is to hear of them, or another process reports.

    Raises:
        PluginError: a tracker that the user named cannot be used; says what to install.
    """
    args = trainer.args
    is_by_default = isinstance(args.report_to, FoundTrackers)
    names = list(args.report_to or [])
    is_reporting = trainer.is_world_process_zero()
    if not is_by_default:
        classes = _named(names)  # on all ranks, so that all of them raise
    elif is_reporting:
        classes = _that_can_start(names)
    else:
        classes = {}
    if not is_reporting or not (classes or args.report):  # a report is made of the run's own record
        return None
    itself = weakref.ref(trainer)

    def run_now() -> Run:
        trainer = itself()
        assert trainer is not None  # its rows are told while it is there
        return run_of(trainer, resumed_step=trainer.state.global_step)

    settings = TrackingSettings(
        raises=args.tracker_errors == "raise",
        close_s=args.tracker_close_s,
        is_by_default=is_by_default,
        secrets=known_secrets(args),
    )
    return Tracking(classes, settings, run_of=run_now)


@contextmanager
def reported(
    trainer: Trainer,
    *,
    resumed_step: int | None,
    times: StepTimes | None = None,
    remote_ids: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Report the run inside. All ranks must enter this.

    Args:
        trainer: ready to train.
        resumed_step: the step that it goes on from; None if it begins.
        times: what its time is spent on; its rows carry that to the run's record.
        remote_ids: each tracker's id of the run, as the checkpoint has it.

    Raises:
        ConfigurationError: on all ranks, if a tracker that the user named did not start.
    """
    is_by_default = isinstance(trainer.args.report_to, FoundTrackers)  # which these are, other nodes may see otherwise
    if not (trainer.args.report_to or trainer.args.report or is_by_default):
        yield
        return
    tracking, text, copy = trainer._tracking, None, None
    if tracking is not None:
        try:
            run = run_of(trainer, resumed_step=resumed_step)
            copy = copy_of_run(run.folder, run.output_dir)
            tracking.begin(run, remote_ids=remote_ids)
        except ConfigurationError as error:
            text = str(error)
        except Exception as error:  # the other processes wait to hear of it
            logger.debug("the run could not be reported", exc_info=True)
            said = masked(text_of(error), secrets=known_secrets(trainer.args))
            text = f"The run cannot be reported ({said}). Set report_to='none' to train without."
    text = trainer._running_engine().broadcast_object(text)
    if text is not None:
        close_within(copy, 1.0)
        raise ConfigurationError(text)
    if copy is not None and trainer._checkpoints is not None:
        trainer._checkpoints.listeners.append(lambda _: copy.copy_soon())
    if tracking is not None and times is not None:
        times.start(trainer.state.global_step)
        tracking.take_timing = times.take
    try:
        yield
        tell_final_model(trainer)
    except BaseException as error:
        _end(trainer, copy, _status_of(error), error)
        raise
    else:
        _end(trainer, copy, "finished")


def _end(trainer: Trainer, copy: RunCopy | None, status: Status, error: BaseException | None = None) -> None:
    """Tell the end, and copy the record of it: both together within tracker_close_s."""
    until = time.monotonic() + trainer.args.tracker_close_s
    try:
        _tell_end(trainer, status, error)
    finally:
        close_within(copy, until - time.monotonic())


def _tell_end(trainer: Trainer, status: Status, error: BaseException | None) -> None:
    tracking = trainer._tracking
    if tracking is None or not tracking.is_begun:
        return
    folder = tracking.folder()
    tracking.end(status, step=trainer.state.global_step, error=error)
    if trainer.args.report is not None:
        write_report(folder)


def run_of(trainer: Trainer, *, resumed_step: int | None = None) -> Run:
    """Return what trackers are told of the Trainer's run."""
    args, state = trainer.args, trainer.state
    output_dir = str(args.output_dir)
    run_id = trainer.run_id or _id_before_training(trainer)
    return Run(
        run_id=run_id,
        name=args.run_name,
        folder=os.path.join(local_folder(output_dir), "runs", run_id),
        output_dir=output_dir,
        logging_dir=args.logging_dir or os.path.join(local_folder(output_dir), "runs"),
        arguments=json.loads(args.to_json_string()),
        model=_configuration(trainer.model),
        environment=environment_of(args),
        max_steps=state.max_steps,
        resumed_step=resumed_step,
        group=None if state.trial_name is None else args.run_name or os.path.basename(output_dir.rstrip("/")),
        trial=state.trial_name,
        trial_params=state.trial_params or {},
    )


def _id_before_training(trainer: Trainer) -> str:
    """Return the id of the run that rows before the first `train` make up; other Trainers have others."""
    if trainer._early_run_id is None:
        trainer._early_run_id = new_run_id(datetime.now().astimezone())
    return trainer._early_run_id


def known_secrets(args: TrainingArguments) -> tuple[str, ...]:
    """Return the texts that must reach no tracker: tokens in the arguments and around the process.

    They are taken out of every text, so of a subclass's own arguments only those count whose name says it clearly:
    ``sort_key="length"`` is none.
    """
    given = [value for name, value in vars(args).items() if is_secret_key(name) and _SECRET_ARGUMENT.search(name)]
    return longest_first([*given, *surrounding_secrets()])


def _class_of(name: str) -> type[Tracker]:
    return registry().load(Kind.TRACKER, name)


def _named(names: list[str]) -> dict[str, type[Tracker]]:
    """Return the class of each, once where ``name`` and ``dist:name`` are the same one."""
    classes: dict[str, type[Tracker]] = {}
    for name in names:
        found = _class_of(name)
        if found not in classes.values():
            classes[name] = found
    return classes


def _that_can_start(names: list[str]) -> dict[str, type[Tracker]]:
    """Return the trackers that start without asking, of those that nobody named; say which do not, and why."""
    classes: dict[str, type[Tracker]] = {}
    reasons: dict[str, str] = {}
    for name in names:
        try:
            found = _class_of(name)
            reason = found().unavailable_because()
        except PluginUnavailableError:
            continue  # its package is not there: nobody missed it
        except Exception as error:  # whatever a plugin does that nobody asked for, the run goes on
            reason = text_of(error)
        if reason is None:
            classes[name] = found
        else:
            reasons[name] = reason
    if reasons:
        listed = ", ".join(f"{name} ({reason})" for name, reason in reasons.items())
        _warn_once(
            f"report_to='all' (the default) reports to {', '.join(classes) or 'none'}, and not to {listed}. Set "
            "report_to to the trackers you want, or to 'none'."
        )
    return classes


@cache
def _warn_once(text: str) -> None:
    """Warn, but not of the same thing with each Trainer of the process."""
    logger.warning(text)


def _configuration(model: Any) -> dict[str, Any]:
    if isinstance(model, TaskModule):
        return {"task": type(model).__qualname__, **model.init_arguments}
    config = getattr(model, "config", None)
    to_dict = getattr(config, "to_dict", None)
    return dict(to_dict()) if callable(to_dict) else dict(config) if isinstance(config, dict) else {}


def _status_of(error: BaseException) -> Status:
    if type(error).__name__ == _PRUNED or type(error.__cause__).__name__ == _PRUNED:
        return "pruned"
    return "interrupted" if isinstance(error, (TrainingInterrupted, KeyboardInterrupt)) else "failed"
