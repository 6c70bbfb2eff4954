"""Tells every callback what happens, and keeps the control object that they share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from hftrain.callbacks.flow import DefaultFlowCallback
from hftrain.errors import CallbackError, ConfigurationError, HftrainError, UnsafeCheckpointError
from hftrain.plugin_api.registry import Kind, registry
from hftrain.types.callback import TrainerCallback
from hftrain.types.choices import Event
from hftrain.types.control import TrainerControl
from hftrain.types.state import is_exportable

logger = logging.getLogger(__name__)

_STEP_FLAGS = ("should_save", "should_evaluate", "should_log")
_FLAGS = ("should_training_stop", "should_epoch_stop", *_STEP_FLAGS)
_CLEARED_BEFORE: dict[Event, tuple[str, ...]] = {
    Event.TRAIN_BEGIN: ("should_training_stop",),
    Event.EPOCH_BEGIN: ("should_epoch_stop",),
    Event.STEP_BEGIN: _STEP_FLAGS,
    Event.EVALUATE: ("should_evaluate",),
    Event.SAVE: ("should_save",),
    Event.LOG: ("should_log",),
}

# The switches to clear, and for each overriding method its class's name, itself and whether it reads keywords.
_Row = tuple[tuple[str, ...], tuple[tuple[str, Callable[..., Any], bool], ...]]


def _context_entry(name: str) -> Any:
    def read(handler: CallbackHandler) -> Any:
        return handler._context[name]

    def write(handler: CallbackHandler, value: Any) -> None:
        handler._context[name] = value

    return property(read, write, doc=f"The {name} that callbacks receive; may be set at any time.")


class CallbackHandler(TrainerCallback):
    """Calls the callbacks in their order, each event reaching only those that override it.

    ``emit`` is what the loop uses, on the objects given to ``bind``; the ``on_*`` methods do the same for
    the objects given with the call. Both clear the switches that the event makes obsolete first.
    """

    model = _context_entry("model")
    processing_class = _context_entry("processing_class")
    optimizer = _context_entry("optimizer")
    lr_scheduler = _context_entry("lr_scheduler")
    train_dataloader = _context_entry("train_dataloader")
    eval_dataloader = _context_entry("eval_dataloader")

    def __init__(
        self, callbacks: Iterable[Any], model: Any, processing_class: Any, optimizer: Any, lr_scheduler: Any
    ) -> None:
        # What callbacks receive as keyword arguments, kept as the dictionary that every call unpacks.
        self._context: dict[str, Any] = {
            "model": model,
            "processing_class": processing_class,
            "optimizer": optimizer,
            "lr_scheduler": lr_scheduler,
            "train_dataloader": None,
            "eval_dataloader": None,
        }
        self._args: Any = None
        self._state: Any = None
        self._control: Any = None
        # Event -> what it clears and whom it reaches, None for nothing at all; emptied when the callbacks change.
        self._table: dict[Event, _Row | None] = {}
        self._callbacks = _WatchedList([], self._table)
        for callback in callbacks:
            self.add_callback(callback)
        if not any(isinstance(callback, DefaultFlowCallback) for callback in self._callbacks):
            logger.warning(
                "There is no DefaultFlowCallback among the callbacks (%s), so that nothing asks to log, evaluate, save "
                "or stop. Add one with add_callback(DefaultFlowCallback).",
                self.callback_list.replace("\n", ", "),
            )

    @property
    def callbacks(self) -> list[Any]:
        """The callbacks in the order of their calls; the list may be changed, or set, at any time."""
        return self._callbacks

    @callbacks.setter
    def callbacks(self, callbacks: Iterable[Any]) -> None:
        self._callbacks = _WatchedList(callbacks, self._table)
        self._table.clear()

    @property
    def callback_list(self) -> str:
        """The class names, one a line."""
        return "\n".join(type(callback).__name__ for callback in self._callbacks)

    def add_callback(self, callback: Any) -> None:
        """Append a callback, or a new instance when given a class; a second one of a class is added with a warning.

        A string names a plugin of the group ``hftrain.callbacks``, as ``name`` or ``dist:name``.

        Raises:
            ConfigurationError: It has no method of a callback, or its class cannot be made without arguments.
            PluginError: There is no such plugin, or it cannot be used; says what to install.
        """
        added = _instance(callback)
        if any(type(present) is type(added) for present in self._callbacks):
            logger.warning(
                "There is a %s among the callbacks already (%s); both will be called.",
                type(added).__name__,
                self.callback_list.replace("\n", ", "),
            )
        self._callbacks.append(added)

    def pop_callback(self, callback: Any) -> Any | None:
        """Remove this callback, or the first instance of this class, and return it; None when there is none.

        A class of another library stands for ours of its name: a script may import ``ProgressCallback`` from there.
        A string names a plugin, as in `add_callback`.
        """
        callback = _named(callback)
        for index, present in enumerate(self._callbacks):
            if present is callback or (isinstance(callback, type) and _is_of(present, callback)):
                return self._callbacks.pop(index)
        return None

    def remove_callback(self, callback: Any) -> None:
        """Remove this callback, or the first instance of this class, if there is one."""
        self.pop_callback(callback)

    def listeners(self, event: Event) -> list[tuple[str, Callable[..., Any]]]:
        """The callbacks that override an event, as (name of the class, bound method)."""
        row = self._table[event] if event in self._table else self._look_up(event)
        return [] if row is None else [(name, method) for name, method, _ in row[1]]

    def stateful(self) -> list[Any]:
        """The callbacks whose state belongs into a checkpoint."""
        return [callback for callback in self._callbacks if is_exportable(callback)]

    def restore(self, stateful_callbacks: Mapping[str, Any]) -> None:
        """Replace each callback that ``TrainerState.stateful_callbacks`` has a state of by one made from that state.

        A state that no callback of this run takes is named in a log line, and otherwise left alone.

        Raises:
            UnsafeCheckpointError: A state would replace a method of its callback.
        """
        states = {
            name: list(state) if isinstance(state, list) else [state] for name, state in stateful_callbacks.items()
        }
        states.pop(TrainerControl.__name__, None)  # the trainer's own
        for index, callback in enumerate(self._callbacks):
            if is_exportable(callback) and states.get(type(callback).__name__):
                self._callbacks[index] = _restored(type(callback), states[type(callback).__name__].pop(0))
        left = sorted(name for name, remaining in states.items() if remaining)
        if left:
            logger.warning("The checkpoint has the state of callbacks that this run does not have: %s", ", ".join(left))

    def bind(self, args: Any, state: Any, control: TrainerControl) -> None:
        """Set the objects that ``emit`` passes on, once a run; call it again when one of them is replaced."""
        self._args, self._state, self._control = args, state, control
        self._table.clear()  # a method set on a callback since the last run counts as well

    def emit(self, event: Event, **extra: Any) -> None:
        """Tell every callback that overrides ``event``; ``extra`` (``logs``, ``metrics``) joins the keyword arguments.

        Raises:
            CallbackError: One of them raised. What hftrain itself raised in it keeps its type and gets a note.
        """
        try:
            row = self._table[event]
        except KeyError:
            row = self._look_up(event)
        if row is not None:
            self._tell(event, row, self._args, self._state, self._control, extra)

    def call_event(self, event: str, args: Any, state: Any, control: TrainerControl, **extra: Any) -> TrainerControl:
        """Do what ``emit`` does with the objects given here; ``event`` is the method's name. Returns ``control``."""
        known = Event(event)
        row = self._table[known] if known in self._table else self._look_up(known)
        if row is not None:
            self._tell(known, row, args, state, control, extra)
        return control

    def _look_up(self, event: Event) -> _Row | None:
        overriding = []
        for callback in self._callbacks:
            method = getattr(callback, event.value, None)
            if method is not None and not _is_inherited_no_op(method):
                overriding.append((type(callback).__name__, method, getattr(method, "reads_keywords", True)))
        cleared = _CLEARED_BEFORE.get(event, ())
        row = (cleared, tuple(overriding)) if cleared or overriding else None
        self._table[event] = row
        return row

    def _tell(
        self, event: Event, row: _Row, args: Any, state: Any, control: TrainerControl, extra: dict[str, Any]
    ) -> None:
        cleared, overriding = row
        for flag in cleared:
            setattr(control, flag, False)
        context = {**self._context, **extra} if extra else self._context
        for name, method, reads_keywords in overriding:
            try:
                answer = method(args, state, control, **context) if reads_keywords else method(args, state, control)
            except Exception as error:
                _raise_naming(error, f"{name}.{event.value}", state)
            if answer is not None and answer is not control:
                _adopt(answer, control, f"{name}.{event.value}")

    def on_init_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Pass it on."""
        return self.call_event("on_init_end", args, state, control, **kwargs)

    def on_train_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Clear ``should_training_stop``, then pass it on."""
        return self.call_event("on_train_begin", args, state, control, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Pass it on."""
        return self.call_event("on_train_end", args, state, control, **kwargs)

    def on_epoch_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Clear ``should_epoch_stop``, then pass it on."""
        return self.call_event("on_epoch_begin", args, state, control, **kwargs)

    def on_epoch_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Pass it on."""
        return self.call_event("on_epoch_end", args, state, control, **kwargs)

    def on_step_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Clear what the last step asked for, then pass it on."""
        return self.call_event("on_step_begin", args, state, control, **kwargs)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Pass it on."""
        return self.call_event("on_pre_optimizer_step", args, state, control, **kwargs)

    def on_optimizer_step(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Pass it on."""
        return self.call_event("on_optimizer_step", args, state, control, **kwargs)

    def on_substep_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Pass it on."""
        return self.call_event("on_substep_end", args, state, control, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Pass it on."""
        return self.call_event("on_step_end", args, state, control, **kwargs)

    def on_evaluate(  # type: ignore[override]  # documented: on the handler the metrics have a position
        self, args: Any, state: Any, control: TrainerControl, metrics: dict[str, float], **kwargs: Any
    ) -> TrainerControl:
        """Clear ``should_evaluate``, then pass it on with the metrics."""
        return self.call_event("on_evaluate", args, state, control, metrics=metrics, **kwargs)

    def on_predict(
        self, args: Any, state: Any, control: TrainerControl, metrics: dict[str, float], **kwargs: Any
    ) -> TrainerControl:
        """Pass it on with the metrics."""
        return self.call_event("on_predict", args, state, control, metrics=metrics, **kwargs)

    def on_save(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Clear ``should_save``, then pass it on."""
        return self.call_event("on_save", args, state, control, **kwargs)

    def on_log(  # type: ignore[override]  # documented: on the handler the logs have a position
        self, args: Any, state: Any, control: TrainerControl, logs: dict[str, float], **kwargs: Any
    ) -> TrainerControl:
        """Clear ``should_log``, then pass it on with the row."""
        return self.call_event("on_log", args, state, control, logs=logs, **kwargs)

    def on_prediction_step(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Pass it on."""
        return self.call_event("on_prediction_step", args, state, control, **kwargs)


class _WatchedList(list[Any]):
    """A list that empties a table whenever it changes; every method that changes a list is wrapped below."""

    def __init__(self, items: Iterable[Any], table: dict[Event, _Row | None]) -> None:
        super().__init__(items)
        self.table = table


def _announcing(name: str) -> Callable[..., Any]:
    change = getattr(list, name)

    def method(self: _WatchedList, *args: Any, **kwargs: Any) -> Any:
        self.table.clear()
        return change(self, *args, **kwargs)

    return method


for _name in ("append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"):
    setattr(_WatchedList, _name, _announcing(_name))
for _name in ("__delitem__", "__iadd__", "__imul__", "__setitem__"):
    setattr(_WatchedList, _name, _announcing(_name))


def _is_of(present: Any, wanted: type) -> bool:
    return isinstance(present, wanted) or any(
        own.__name__ == wanted.__name__ and own.__module__.startswith("hftrain.") for own in type(present).__mro__[:-1]
    )


def _instance(callback: Any) -> Any:
    """``callback`` itself, or an instance of the class that it is, or names."""
    name, callback = callback, _named(callback)
    if isinstance(callback, type):
        try:
            callback = callback()
        except TypeError as error:
            what = f"the plugin {name!r}: " if isinstance(name, str) else ""
            raise ConfigurationError(
                f"callbacks has {what}the class {callback.__name__}, which cannot be made without arguments ({error}): "
                "pass an instance."
            ) from error
    if not any(hasattr(callback, event.value) for event in Event):
        raise ConfigurationError(
            f"callbacks has {callback!r} ({type(callback).__name__}), which has no method of a callback such as "
            "on_step_end: pass a TrainerCallback, instance or class."
        )
    return callback


def _named(callback: Any) -> Any:
    """The class of the plugin that a string names; what is no string is returned as it is."""
    return registry().load(Kind.CALLBACK, callback) if isinstance(callback, str) else callback


def _is_inherited_no_op(method: Any) -> bool:
    """Whether ``method`` is one that TrainerCallback defines, ours or the reference's (known by its name)."""
    function = getattr(method, "__func__", None)
    return getattr(function, "__qualname__", "").startswith("TrainerCallback.") and (
        getattr(function, "__module__", "") in (TrainerCallback.__module__, "transformers.trainer_callback")
    )


def _raise_naming(error: Exception, where: str, state: Any) -> NoReturn:
    step = getattr(state, "global_step", None)
    if isinstance(error, HftrainError):
        error.add_note(f"Raised in {where}, at step {step}.")
        try:
            raise error
        finally:
            del error  # its traceback holds this frame: a cycle that would keep the whole run alive
    raise CallbackError(f"{where} raised {type(error).__name__} at step {step}: {error}") from error


def _adopt(answer: Any, control: TrainerControl, where: str) -> None:
    """Copy the switches of another control object into the shared one."""
    try:
        for flag in _FLAGS:
            setattr(control, flag, getattr(answer, flag))
    except AttributeError as error:
        raise CallbackError(f"{where} returned {answer!r}: return the control it was given, or nothing.") from error


def _restored(kind: Any, state: Mapping[str, Any]) -> Any:
    for name in state.get("attributes", ()):
        if name.startswith("__") or callable(getattr(kind, name, None)):
            raise UnsafeCheckpointError(f"The checkpoint's state of {kind.__name__} would replace its {name!r}.")
    return kind.from_state(state)
