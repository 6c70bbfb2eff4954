"""The switches through which callbacks steer the loop, and the protocol of what a checkpoint keeps of an object."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self


class ExportableState:
    """Something whose state travels with a checkpoint; mix it into a callback to make it resumable.

    Example:
        ::

            class CountEpochs(TrainerCallback, ExportableState):
                def __init__(self, start: int = 0) -> None:
                    self.start, self.epochs = start, 0

                def state(self) -> dict[str, Any]:
                    return {"args": {"start": self.start}, "attributes": {"epochs": self.epochs}}
    """

    def state(self) -> dict[str, Any]:
        """What rebuilds this object, as plain JSON.

        Returns:
            ``{"args": {...}, "attributes": {...}}``: the constructor's keyword arguments, and the
            attributes set on the new object afterwards.

        Raises:
            NotImplementedError: The class does not say what its state is.
        """
        raise NotImplementedError(f"{type(self).__name__} inherits ExportableState and has no state(): define it.")

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """A new object from what ``state()`` returned."""
        instance = cls(**state["args"])
        for name, value in state["attributes"].items():
            setattr(instance, name, value)
        return instance


@dataclass
class TrainerControl(ExportableState):
    """The five switches that callbacks set and the loop acts on.

    A callback changes them in place (and may return the object, which changes nothing more).

    Attributes:
        should_training_stop: Stop after this step. Cleared only when a new training begins.
        should_epoch_stop: End this epoch after this step. Cleared when an epoch begins.
        should_save: Write a checkpoint after this step. Cleared when a step begins and once saved.
        should_evaluate: Evaluate after this step. Cleared when a step begins and once evaluated.
        should_log: Write a log row after this step. Cleared when a step begins and once logged.
    """

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False

    def _new_training(self) -> None:
        self.should_training_stop = False

    def _new_epoch(self) -> None:
        self.should_epoch_stop = False

    def _new_step(self) -> None:
        self.should_save = False
        self.should_evaluate = False
        self.should_log = False

    def state(self) -> dict[str, Any]:
        """The five switches, as ``ExportableState`` asks."""
        return {"args": asdict(self), "attributes": {}}
