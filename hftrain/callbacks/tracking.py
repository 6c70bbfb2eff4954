"""Reports a run to trackers: everything goes into the run's spool first, and from there to each of them."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hftrain.callbacks.hooks import Hooks
from hftrain.callbacks.tracking_end import Reporting, close, end_forgotten, wait_for_end_of
from hftrain.callbacks.warned import Warned
from hftrain.errors import ConfigurationError, PluginError
from hftrain.hardware.seeding import random_numbers_kept
from hftrain.plugin_api.runs import read_remote_ids, write_remote_ids
from hftrain.plugin_api.spool import TIMING, Event, Spool, Type
from hftrain.plugin_api.tracker import Run, Status, Tracker
from hftrain.plugin_api.values import masked, plain
from hftrain.plugin_api.worker import START_S, Delivery, TrackerStartError, text_of
from hftrain.types.callback import TrainerCallback
from hftrain.types.control import TrainerControl

logger = logging.getLogger(__name__)

T = TypeVar("T")

_GIVE_UP_S = 5.0
"""So long those that did start are waited for, where another one did not."""


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """How a run is reported.

    Attributes:
        raises: an outage of a tracker stops the run, rather than being a warning.
        close_s: seconds that the end of a run waits for trackers.
        start_s: seconds that its beginning waits for them.
        is_by_default: nobody named the trackers: one that cannot start is left out, with a warning.
        secrets: texts that must not be sent.
    """

    raises: bool = False
    close_s: float = 60.0
    start_s: float = START_S
    is_by_default: bool = False
    secrets: tuple[str, ...] = ()


class Tracking(TrainerCallback):
    """The trackers of a Trainer, on the process that reports. Made once; begun and ended with each run.

    Args:
        trackers: name, as the user wrote it, and class of each.
        settings: how they are used.
        run_of: makes what trackers are told of the run; asked when a row comes outside of training.
    """

    def __init__(
        self,
        trackers: Mapping[str, Callable[[], Tracker]],
        settings: TrackingSettings,
        *,
        run_of: Callable[[], Run] | None = None,
    ) -> None:
        self._trackers = dict(trackers)
        self._settings = settings
        self._run_of = run_of
        self._deliveries: list[Delivery] = []
        self._spool: Spool | None = None
        self._warned: Warned | None = None
        self._remote_ids: dict[str, str] = {}
        self._has_warned_of_disk = False
        self._hooks = Hooks()
        self._order = threading.RLock()
        self._finalizer: Any = None
        self.take_timing: Callable[[int], Mapping[str, float] | None] | None = None
        """Gives, by the step, what the time since the row before was spent on; None if that is not due."""

    @property
    def is_begun(self) -> bool:
        """Whether a run is being reported."""
        return self._spool is not None

    @property
    def remote_ids(self) -> Mapping[str, str]:
        """Each tracker's id of the run that is reported, or was last; a checkpoint keeps them."""
        return self._remote_ids

    def watched(self) -> frozenset[str]:
        """Return what trackers want histograms of: "gradients", "parameters"."""
        return frozenset(kind for kinds in self._asked(lambda tracker: tuple(tracker.watches())) for kind in kinds)

    def takes_final_model(self) -> bool:
        """Whether a tracker wants the model as training left it."""
        return any(self._asked(lambda tracker: tracker.takes_final_model()))

    def folder(self) -> str:
        """Return the folder of the run that is being reported. One that has ended goes on, as for a row after it."""
        if self._spool is None:
            assert self._run_of is not None  # a Trainer gives it
            self._begin_outside(self._run_of())
        assert self._spool is not None  # it began
        return self._spool.folder

    def begin(self, run: Run, *, remote_ids: Mapping[str, str] | None = None, must_start: bool = True) -> None:
        """Start the trackers, all at once, and wait until they have started.

        Args:
            run: its ``folder`` will hold the spool; its secrets are masked here. ``remote_id`` is filled in.
            remote_ids: each tracker's id of the run, as a checkpoint has it; the run's own folder knows better.
            must_start: one that the user named and that does not start is an error, rather than a warning.

        Raises:
            ConfigurationError: trackers that the user named did not start; says why of each.
        """
        if self.is_begun:
            self.end("finished", step=run.resumed_step or 0)
        run = replace(self._masked(run), folder=os.path.abspath(run.folder))  # the program may change its own
        wait_for_end_of(run.folder, self._settings.close_s)
        spool = self._spool = Spool(run.folder)
        if not spool.is_alone:
            logger.warning("%s is told to a tracker by another process too: that may tell it twice.", run.folder)
        self._remote_ids = {**(remote_ids or {}), **read_remote_ids(run.folder)}
        self._keep_remote_ids(run)
        told = spool.last_seq
        if run.resumed_step is not None:
            self._append("resume", step=run.resumed_step)
        data: dict[str, Any] = {"name": run.name, "arguments": run.arguments, "model": run.model}
        data["output_dir"] = run.output_dir
        data |= {"logging_dir": run.logging_dir, "group": run.group, "trial": run.trial, "params": run.trial_params}
        data |= {"environment": run.environment, "max_steps": run.max_steps}
        self._append("start", step=run.resumed_step or 0, data=data)
        self._warned = Warned(spool, secrets=self._settings.secrets)
        self._hooks = Hooks()
        try:
            with random_numbers_kept():  # clients seed or draw from them: ClearML's has all of them begin at 1337
                reasons = self._start(run, num_own=spool.last_seq - told)
            self._hooks.note()
        except BaseException:  # an interrupt while it waited
            self._give_up()
            raise
        self._remote_ids |= {one.name: one.remote_id for one in self._deliveries if one.remote_id is not None}
        self._keep_remote_ids(run)
        if reasons:
            self._tell_of_start(reasons, run, must_start=must_start and not self._settings.is_by_default)

    def end(self, status: Status, *, step: int, error: BaseException | None = None) -> None:
        """Tell the trackers how the run ended, and wait for them as long as the settings say.

        Raises:
            PluginError: with ``raises``, one was not told all of a run that ended well.
        """
        left = self._end_within(self._settings.close_s, status, step, error)
        if left and self._settings.raises and status == "finished":
            raise PluginError(
                f"{', '.join(left)} was not told the end of the run within tracker_close_s="
                f"{self._settings.close_s:g}, and tracker_errors='raise'."
            )

    def _end_within(self, close_s: float, status: Status, step: int, error: BaseException | None) -> list[str]:
        """End the run; return the trackers that were not told everything."""
        if self._spool is None:
            return []
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None
        spool, self._spool, self.take_timing = self._spool, None, None
        deliveries, self._deliveries = self._deliveries, []
        self._stop_listening()
        text = None if error is None else masked(text_of(error), secrets=self._settings.secrets)
        finish = spool.append("finish", step=step, data={"status": status, "error": text})
        return close(spool, deliveries, finish, close_s, self._hooks)

    # ---- what is reported ---------------------------------------------------------------------------

    def report(self, type_: Type, *, step: int, epoch: float | None = None, data: Mapping[str, Any]) -> None:
        """Report one thing. Never waits for a tracker.

        Raises:
            PluginError: with ``raises``, a tracker could not be told before.
        """
        if self._spool is not None and not self._spool.is_ours:
            return  # forked: a lock may have been held then, and stays so here
        if self._warned is not None:
            self._warned.step = step
            self._warned.flush()
        with self._order:  # of two threads: what is offered after a later event counts as told
            event = self._append(type_, step=step, epoch=epoch, data=data)
            for delivery in self._deliveries:
                delivery.offer(event)
        for delivery in self._deliveries:
            if self._settings.raises and delivery.failure is not None:
                said = delivery.said(delivery.failure)
                is_clean = said == text_of(delivery.failure)  # a traceback shows what the cause says
                raise PluginError(
                    f"The tracker {delivery.name!r} cannot be told ({said}), and tracker_errors='raise'."
                ) from (delivery.failure if is_clean else None)

    def on_log(
        self, args: Any, state: Any, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Report the row."""
        if not self.is_begun and self._run_of is not None:
            self._begin_outside(self._run_of())
        if self.is_begun:
            row = {name: value for name, value in (logs or {}).items() if name != "epoch"}
            timing = self.take_timing(state.global_step) if self.take_timing is not None else None
            if timing is not None:
                row.setdefault(TIMING, timing)
            self.report("log", step=state.global_step, epoch=state.epoch, data=row)

    def on_save(
        self, args: Any, state: Any, control: TrainerControl, checkpoint: str | None = None, **kwargs: Any
    ) -> None:
        """Report the committed checkpoint."""
        if self.is_begun and checkpoint is not None:
            name = os.path.basename(checkpoint.rstrip("/"))
            _, _, number = name.rpartition("-")  # one written in the background is committed at a later step
            step = int(number) if number.isdecimal() else state.global_step
            path = checkpoint if "://" in checkpoint else os.path.abspath(checkpoint)
            if self._spool is not None:
                self._spool.sync()  # what the checkpoint makes final is, beside it
            self.report("checkpoint", step=step, epoch=state.epoch, data={"name": name, "path": path})

    # ---- inside -------------------------------------------------------------------------------------

    def _asked(self, question: Callable[[Tracker], T]) -> list[T]:
        """Ask an instance of each tracker that does not start; one that raises is taken to want nothing."""
        answers = []
        for name, make in self._trackers.items():
            try:
                answers.append(question(make()))
            except Exception as error:  # an author's code, in the training's own thread
                said = masked(text_of(error), secrets=self._settings.secrets)
                logger.warning("%s does not say what it wants (%s): it gets the numbers only.", name, said)
        return answers

    def _begin_outside(self, run: Run) -> None:
        """Go on with the run for rows that come after its end; it ends again when nobody needs it any more.

        What does not start now is a warning: an evaluation's result is not lost for it, nor do other processes wait.
        """
        self.begin(run, remote_ids=self._remote_ids, must_start=False)
        spool, warned = self._spool, self._warned
        assert spool is not None  # it began
        assert warned is not None
        self._finalizer = weakref.finalize(
            self,
            end_forgotten,
            Reporting(spool=spool, warned=warned, hooks=self._hooks, deliveries=self._deliveries),
            step=run.resumed_step or 0,
            close_s=self._settings.close_s,
        )

    def _append(
        self, type_: Type, *, step: int, epoch: float | None = None, data: Mapping[str, Any] | None = None
    ) -> Event:
        assert self._spool is not None  # the callers have begun
        told = masked(plain(data or {}), secrets=self._settings.secrets)
        path = told.get("path") and (data or {})["path"]
        if type_ in ("media", "artifact", "checkpoint") and path and "://" not in path:
            told["path"] = path  # a password may be the name of a folder, and what lies in it is still to be found
        event = self._spool.append(type_, step=step, epoch=epoch, data=told)
        if self._spool.error is not None and not self._has_warned_of_disk:
            self._has_warned_of_disk = True
            logger.warning(
                "%s cannot be written (%s). Training goes on; what trackers miss from now on cannot be told later.",
                self._spool.path,
                self._spool.error,
            )
        return event

    def _masked(self, run: Run) -> Run:
        def safe(value: Any) -> Any:
            return masked(plain(value), secrets=self._settings.secrets)

        names = ("name", "group", "trial", "output_dir", "arguments", "model", "trial_params")
        told = replace(run, **{name: safe(getattr(run, name)) for name in names})
        return replace(told, output_dir=run.output_dir) if "://" not in run.output_dir else told

    def _keep_remote_ids(self, run: Run) -> None:
        try:
            write_remote_ids(run.folder, run.run_id, self._remote_ids)
        except OSError as error:
            logger.debug("The ids of %s could not be kept: %s", run.folder, error)  # the spool's warning says why

    def _start(self, run: Run, *, num_own: int) -> dict[str, str]:
        """Start all of them; return why some did not."""
        assert self._spool is not None  # the caller has begun
        spool, secrets = self._spool, self._settings.secrets
        launched: list[Delivery] = []
        reasons: dict[str, str] = {}
        for name, make in self._trackers.items():
            try:
                delivery = Delivery(name, make(), spool.path, secrets=secrets)
            except Exception as error:  # an author's constructor
                reasons[name] = str(masked(text_of(error), secrets=secrets))
                continue
            mine = replace(run, remote_id=self._remote_ids.get(name))
            delivery.launch(mine, last_seq=spool.last_seq, num_own=num_own)
            launched.append(delivery)
        for delivery in launched:
            try:
                delivery.wait_for_start(timeout_s=self._settings.start_s)
                self._deliveries.append(delivery)
            except TrackerStartError as error:
                reasons[delivery.name] = str(error)
            except BaseException:  # an interrupt: those that nobody waited for yet are told nothing either
                for one in launched:
                    one.leave()
                raise
        return reasons

    def _tell_of_start(self, reasons: Mapping[str, str], run: Run, *, must_start: bool) -> None:
        """Say what did not start. Those that did are told that the run failed, if it does for it."""
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        if must_start:
            error = ConfigurationError(
                f"report_to names what did not start: {listed}. Set what it asks for, or take it out of report_to."
            )
            self._end_within(min(self._settings.close_s, _GIVE_UP_S), "failed", run.resumed_step or 0, error)
            raise error
        advice = "Set report_to to the trackers you want, or to 'none'."
        if not self._settings.is_by_default:
            commands = " or ".join(f"hftrain replay {run.folder} --to {name}" for name in reasons)
            advice = f"What it misses is kept. Run: {commands}"
        logger.warning("Not reported to, since it did not start: %s. %s", listed, advice)

    def _give_up(self) -> None:
        for delivery in self._deliveries:
            delivery.leave()
        self._deliveries = []
        self._stop_listening()
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _stop_listening(self) -> None:
        if self._warned is not None:
            self._warned.close()
            self._warned = None
