from __future__ import annotations

from dataclasses import asdict
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import trainer_callback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hftrain.callbacks.flow import DefaultFlowCallback
from hftrain.callbacks.handler import CallbackHandler
from hftrain.types.control import TrainerControl
from hftrain.types.state import TrainerState

theirs: Any = trainer_callback

STEPS_PER_EPOCH, MAX_STEPS = 4, 10


def trace(state: Any, control: Any, handler: Any, args: Any) -> list[dict[str, bool]]:
    """The switches after every event of a run of two and a half epochs."""
    rows = []

    def tell(event: str, *extra: Any) -> None:
        getattr(handler, event)(args, state, control, *extra)
        rows.append(asdict(control))

    tell("on_train_begin")
    while not control.should_training_stop:
        tell("on_epoch_begin")
        for _ in range(STEPS_PER_EPOCH):
            tell("on_step_begin")
            state.global_step += 1
            state.epoch = state.global_step / STEPS_PER_EPOCH
            tell("on_step_end")
            react(control, tell)
            if control.should_epoch_stop or control.should_training_stop:
                break
        tell("on_epoch_end")
        react(control, tell)
    tell("on_train_end")
    return rows


def react(control: Any, tell: Any) -> None:
    if control.should_log:
        tell("on_log", {})
    if control.should_evaluate:
        tell("on_evaluate", {})
    if control.should_save:
        tell("on_save")


@pytest.mark.parametrize("first_step", [False, True])
@pytest.mark.parametrize("delay", [0, 2, 5.5])
@pytest.mark.parametrize("steps", [1, 3, 4, 100])
def test_the_switches_follow_the_reference_through_whole_runs(steps: int, delay: float, first_step: bool) -> None:
    for logging, evaluating, saving in product(IntervalStrategy, IntervalStrategy, SaveStrategy):
        args = SimpleNamespace(
            logging_strategy=logging,
            eval_strategy=evaluating,
            save_strategy=saving,
            eval_delay=delay,
            logging_first_step=first_step,
        )
        start: dict[str, Any] = {
            "max_steps": MAX_STEPS,
            "logging_steps": steps,
            "eval_steps": steps,
            "save_steps": steps,
        }
        their_handler = theirs.CallbackHandler([theirs.DefaultFlowCallback], None, None, None, None)
        their_rows = trace(theirs.TrainerState(**start), theirs.TrainerControl(), their_handler, args)
        handler = CallbackHandler([DefaultFlowCallback], None, None, None, None)
        assert trace(TrainerState(**start), TrainerControl(), handler, args) == their_rows


def test_steps_of_zero_ask_for_nothing() -> None:
    args = SimpleNamespace(
        logging_strategy="steps", eval_strategy="steps", save_strategy="steps", eval_delay=0, logging_first_step=False
    )
    state = TrainerState(global_step=3, max_steps=10, logging_steps=0, eval_steps=0, save_steps=0)
    control = TrainerControl()
    DefaultFlowCallback().on_step_end(args, state, control)
    assert control == TrainerControl()


def test_a_subclass_may_pass_its_keyword_arguments_on() -> None:
    class Louder(DefaultFlowCallback):
        def on_epoch_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
            super().on_epoch_end(args, state, control, **kwargs)
            control.should_log = True

    args = SimpleNamespace(logging_strategy="no", eval_strategy="no", save_strategy="epoch")
    control = TrainerControl()
    handler = CallbackHandler([Louder], None, None, None, None)
    handler.on_epoch_end(args, TrainerState(epoch=1.0), control)
    assert control == TrainerControl(should_log=True, should_save=True)
