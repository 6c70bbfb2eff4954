"""What a `LoopRunner` is given in these tests: a real engine, loader and optimizer, and listeners that write down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from hftrain.core.horizon import compute_horizon
from hftrain.core.loop_settings import LoopSettings
from hftrain.core.runner import LoopRunner
from hftrain.core.task import TaskModule
from hftrain.data.epochs import EpochLoader
from hftrain.data.loaders import train_loader
from hftrain.data.settings import LoaderSettings
from hftrain.hardware.engine import create_engine
from hftrain.hardware.settings import EngineSettings
from hftrain.types.choices import Event
from hftrain.types.control import TrainerControl
from hftrain.types.state import TrainerState


class Recorder:
    """Writes down every event and every action, and sets flags when told to."""

    def __init__(self, control: TrainerControl, flags: dict[tuple[Event, int], str], state: TrainerState) -> None:
        self.trace: list[str] = []
        self.rows: list[dict[str, float]] = []
        self._control, self._flags, self._state = control, flags, state

    def emit(self, event: Event, **extra: Any) -> None:
        self.trace.append(event.value)
        if event is Event.STEP_BEGIN:
            self._control.should_log = self._control.should_evaluate = self._control.should_save = False
        flag = self._flags.get((event, self._state.global_step))
        if flag is not None:
            setattr(self._control, flag, True)

    def log(self, logs: dict[str, float]) -> None:
        self.trace.append("log")
        self.rows.append(logs)
        self._control.should_log = False

    def evaluate(self, *, skip_scheduler: bool = False) -> None:
        self.trace.append("evaluate")
        self._control.should_evaluate = False

    def save(self) -> None:
        self.trace.append("save")
        self._control.should_save = False


def run(
    task: TaskModule,
    data: Any,
    *,
    flags: dict[tuple[Event, int], str] | None = None,
    batch_size: int = 4,
    epochs: float = 1,
    max_steps: int = -1,
    fitter: Any = None,
    **settings: Any,
) -> tuple[LoopRunner, Recorder]:
    """Train and return the runner and what was heard."""
    loop = replace(LoopSettings(), **settings)
    engine = create_engine(EngineSettings(accelerator="cpu"))
    engine.place(task)
    optimizer = engine.make_optimizer(lambda: torch.optim.SGD(task.parameters(), lr=0.1))
    engine.wrap(task, steps=("training_step",))
    source = EpochLoader(train_loader(data, LoaderSettings(batch_size=batch_size, seed=0)))
    horizon = compute_horizon(
        num_batches=source.num_batches,
        num_examples=source.num_samples,
        num_train_epochs=epochs,
        max_steps=max_steps,
        accumulation_steps=loop.accumulation_steps,
        total_batch_size=batch_size * loop.accumulation_steps,
    )
    control, state = TrainerControl(), TrainerState()
    recorder = Recorder(control, flags or {}, state)
    binding = task.bind(engine, training=True)
    runner = LoopRunner(
        task=task,
        engine=engine,
        source=source,
        optimizer=optimizer,
        scheduler=None,
        settings=loop,
        horizon=horizon,
        state=state,
        control=control,
        events=recorder,
        actions=recorder,
        meters=binding.meters,
        fitter=fitter,
    )
    runner.fit()
    return runner, recorder
