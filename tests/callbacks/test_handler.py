from __future__ import annotations

import copy
import gc
import logging
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import trainer_callback

from hftrain.callbacks.flow import DefaultFlowCallback
from hftrain.callbacks.handler import CallbackHandler
from hftrain.callbacks.progress import PrinterCallback
from hftrain.errors import (
    CallbackError,
    CheckpointError,
    ConfigurationError,
    TrainingInterrupted,
    UnsafeCheckpointError,
)
from hftrain.types.callback import TrainerCallback
from hftrain.types.choices import Event
from hftrain.types.control import ExportableState, TrainerControl
from hftrain.types.state import TrainerState, export_states

theirs: Any = trainer_callback

EXTRA: dict[Event, dict[str, Any]] = {
    Event.EVALUATE: {"metrics": {"eval_loss": 1.0}},
    Event.PREDICT: {"metrics": {"test_loss": 1.0}},
    Event.LOG: {"logs": {"loss": 1.0}},
}


class Recorder:
    """Takes every event without inheriting anything."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda args, state, control, **kwargs: self.seen.append((name, kwargs, dict(vars(control))))


class Counter(TrainerCallback, ExportableState):
    def __init__(self, start: int = 0) -> None:
        self.start = self.steps = start

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        self.steps += 1

    def state(self) -> dict[str, Any]:
        return {"args": {"start": self.start}, "attributes": {"steps": self.steps}}


class Raiser(TrainerCallback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        raise self.error


def handler_of(*callbacks: Any) -> CallbackHandler:
    handler = CallbackHandler([DefaultFlowCallback, *callbacks], "model", "tokenizer", "optimizer", "schedule")
    args = SimpleNamespace(
        logging_strategy="no", eval_strategy="no", save_strategy="no", eval_delay=0, logging_first_step=False
    )
    handler.bind(args, TrainerState(global_step=4, max_steps=10), TrainerControl())
    return handler


def names(handler: Any) -> list[str]:
    return [type(callback).__name__ for callback in handler.callbacks]


@pytest.mark.parametrize("event", Event)
def test_every_event_clears_and_passes_what_the_reference_does(event: Event) -> None:
    ours, their_recorder = Recorder(), Recorder()
    handler = CallbackHandler([ours], "m", "p", "o", "s")
    their_handler = theirs.CallbackHandler([their_recorder], "m", "p", "o", "s")
    handler.train_dataloader = their_handler.train_dataloader = "train"
    for told in (handler, their_handler):
        getattr(told, event.value)("args", TrainerState(), TrainerControl(*[True] * 5), *EXTRA.get(event, {}).values())
    handler.bind("args", TrainerState(), TrainerControl(*[True] * 5))
    handler.emit(event, **EXTRA.get(event, {}))
    assert ours.seen == their_recorder.seen * 2


@pytest.mark.parametrize("event", Event)
def test_the_handler_s_methods_take_what_is_documented_and_return_the_control(event: Event) -> None:
    control = TrainerControl()
    handler = CallbackHandler([DefaultFlowCallback], None, None, None, None)
    args = SimpleNamespace(
        logging_strategy="no", eval_strategy="no", save_strategy="no", eval_delay=0, logging_first_step=False
    )
    assert getattr(handler, event.value)(args, TrainerState(), control, *EXTRA.get(event, {}).values()) is control


def test_callbacks_are_called_in_their_order() -> None:
    order: list[str] = []

    class First(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
            order.append(type(self).__name__)

    class Second(First):
        pass

    handler_of(First, Second).emit(Event.SAVE)
    assert order == ["First", "Second"]


def test_only_what_is_overridden_is_called() -> None:
    class TheirNoOp(trainer_callback.TrainerCallback):
        pass

    handler = handler_of(TrainerCallback, Counter, TheirNoOp, PrinterCallback)
    assert handler._look_up(Event.OPTIMIZER_STEP) is None
    row = handler._look_up(Event.STEP_END)
    assert row is not None
    assert [name for name, _, _ in row[1]] == ["DefaultFlowCallback", "Counter"]


def test_the_reference_s_own_callback_works_here() -> None:
    class Stop(trainer_callback.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            return theirs.TrainerControl(should_training_stop=True, should_log=kwargs["model"] == "model")

    handler = handler_of(Stop)
    handler.emit(Event.STEP_END)
    assert handler._control == TrainerControl(should_training_stop=True, should_log=True)


def test_a_method_set_on_an_instance_is_called() -> None:
    callback = TrainerCallback()
    handler = handler_of(callback)
    callback.on_step_end = lambda args, state, control, **kwargs: setattr(control, "should_save", True)  # type: ignore[method-assign]
    handler.bind(handler._args, handler._state, handler._control)
    handler.emit(Event.STEP_END)
    assert handler._control.should_save


CHANGES: dict[str, Any] = {
    "append": lambda handler, counter: handler.callbacks.append(counter),
    "extend": lambda handler, counter: handler.callbacks.extend([counter]),
    "insert": lambda handler, counter: handler.callbacks.insert(0, counter),
    "add in place": lambda handler, counter: handler.callbacks.__iadd__([counter]),
    "set an item": lambda handler, counter: handler.callbacks.__setitem__(0, counter),
    "set a slice": lambda handler, counter: handler.callbacks.__setitem__(slice(0, 0), [counter]),
    "set the list": lambda handler, counter: setattr(handler, "callbacks", [counter]),
    "add_callback": lambda handler, counter: handler.add_callback(counter),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_callback_that_joins_in_any_way_is_called_from_then_on(change: str) -> None:
    handler, counter = handler_of(), Counter()
    handler.emit(Event.STEP_END)
    CHANGES[change](handler, counter)
    handler.emit(Event.STEP_END)
    assert counter.steps == 1


@pytest.mark.parametrize("leave", ["remove", "pop", "clear", "del", "remove_callback"])
def test_a_callback_that_leaves_in_any_way_is_called_no_more(leave: str) -> None:
    counter = Counter()
    handler = handler_of(counter)
    handler.emit(Event.STEP_END)
    ways: dict[str, Any] = {
        "remove": lambda: handler.callbacks.remove(counter),
        "pop": handler.callbacks.pop,
        "clear": handler.callbacks.clear,
        "del": lambda: handler.callbacks.__delitem__(-1),
        "remove_callback": lambda: handler.remove_callback(Counter),
    }
    ways[leave]()
    handler.emit(Event.STEP_END)
    assert counter.steps == 1


def test_a_callback_may_leave_while_it_is_called() -> None:
    class Once(Counter):
        def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
            super().on_step_end(args, state, control, **kwargs)
            handler.remove_callback(self)

    once, counter = Once(), Counter()
    handler = handler_of(once, counter)
    for _ in range(2):
        handler.emit(Event.STEP_END)
    assert (once.steps, counter.steps) == (1, 2)


def test_classes_and_instances_come_and_go_as_in_the_reference() -> None:
    class Printer(PrinterCallback):
        pass

    class TheirPrinter(trainer_callback.PrinterCallback):
        pass

    TheirPrinter.__name__ = "Printer"
    ours = CallbackHandler([DefaultFlowCallback, Printer(), PrinterCallback], None, None, None, None)
    other = theirs.CallbackHandler(
        [theirs.DefaultFlowCallback, TheirPrinter(), theirs.PrinterCallback], None, None, None, None
    )
    for handler, printer in ((ours, PrinterCallback), (other, theirs.PrinterCallback)):
        popped = handler.pop_callback(printer)  # the first that is one, a subclass included
        assert (type(popped).__name__, names(handler)) == ("Printer", ["DefaultFlowCallback", "PrinterCallback"])
        assert handler.pop_callback(handler.callbacks[1]) is not None
        assert handler.pop_callback(printer) is None
        assert handler.callback_list == "DefaultFlowCallback"


def test_a_second_callback_of_a_class_is_added_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    handler = handler_of(Counter)
    with caplog.at_level(logging.WARNING):
        handler.add_callback(Counter(5))
    assert names(handler) == ["DefaultFlowCallback", "Counter", "Counter"]
    assert "There is a Counter among the callbacks already" in caplog.text


def test_a_run_without_flow_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        CallbackHandler([Counter], None, None, None, None)
    assert "There is no DefaultFlowCallback among the callbacks (Counter)" in caplog.text


@pytest.mark.parametrize("wrong", [3, object(), ("wandb",)])
def test_what_is_no_callback_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="has no method of a callback"):
        handler_of(wrong)


def test_a_class_that_needs_arguments_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the class Raiser, which cannot be made without arguments"):
        handler_of(Raiser)


def test_an_exception_names_the_callback_and_the_event() -> None:
    cause = KeyError("eval_loss")
    with pytest.raises(CallbackError, match=r"Raiser\.on_step_end raised KeyError at step 4: 'eval_loss'") as caught:
        handler_of(Raiser(cause)).emit(Event.STEP_END)
    assert caught.value.__cause__ is cause


def test_our_own_errors_keep_their_type_and_name_the_callback_in_a_note() -> None:
    with pytest.raises(CheckpointError, match="disk full") as caught:
        handler_of(Raiser(CheckpointError("disk full"))).emit(Event.STEP_END)
    assert caught.value.__notes__ == ["Raised in Raiser.on_step_end, at step 4."]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), TrainingInterrupted(143)])
def test_what_ends_the_process_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        handler_of(Raiser(error)).emit(Event.STEP_END)
    assert caught.value is error


def test_returning_something_else_than_a_control_is_named() -> None:
    class Wrong(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> Any:
            return True

    with pytest.raises(CallbackError, match=r"Wrong\.on_save returned True: return the control it was given"):
        handler_of(Wrong).emit(Event.SAVE)


def test_states_are_exported_and_restored_to_the_same_places() -> None:
    handler = handler_of(Counter(1), PrinterCallback, Counter(2))
    handler.emit(Event.STEP_END)
    exported = export_states([*handler.stateful(), handler._control])
    fresh = handler_of(Counter(8), PrinterCallback, Counter(9))
    fresh.restore(exported)
    assert names(fresh) == names(handler)
    assert [counter.state() for counter in fresh.stateful()] == [counter.state() for counter in handler.stateful()]


@pytest.mark.parametrize("name", ["on_step_end", "__class__"])
def test_a_state_cannot_replace_a_method(name: str) -> None:
    with pytest.raises(UnsafeCheckpointError, match=f"state of Counter would replace its '{name}'"):
        handler_of(Counter()).restore({"Counter": {"args": {}, "attributes": {name: "text"}}})


def test_a_state_that_nobody_takes_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        handler_of().restore(export_states([Counter(), TrainerControl()]))
    assert caplog.messages == ["The checkpoint has the state of callbacks that this run does not have: Counter"]


def test_keyword_arguments_are_what_the_handler_holds_now() -> None:
    recorder = Recorder()
    handler = handler_of(recorder)
    handler.optimizer = "another"
    handler.emit(Event.STEP_BEGIN)
    assert recorder.seen[0][1]["optimizer"] == "another"


def test_a_copied_handler_calls_its_own_callbacks() -> None:
    handler = handler_of(Counter())
    handler.emit(Event.STEP_END)
    twin = copy.deepcopy(handler)
    twin.callbacks.pop()
    for either in (handler, twin):
        either.emit(Event.STEP_END)
    assert handler.callbacks[-1].steps == 2


def test_a_handler_is_freed_without_the_garbage_collector() -> None:
    handler = handler_of(Counter)
    handler.emit(Event.STEP_END)
    gone = weakref.ref(handler)
    gc.disable()
    del handler
    gc.enable()
    assert gone() is None


def test_another_librarys_class_stands_for_ours_of_its_name() -> None:
    handler = CallbackHandler([DefaultFlowCallback(), PrinterCallback()], None, None, None, None)
    assert isinstance(handler.pop_callback(trainer_callback.PrinterCallback), PrinterCallback)
    assert handler.pop_callback(trainer_callback.PrinterCallback) is None
