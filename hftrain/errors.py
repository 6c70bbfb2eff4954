"""Every exception that hftrain raises on purpose.

The tree; a name in brackets is the builtin that the class also is, so that code written against
the builtin keeps working::

    HftrainError
    |-- ConfigurationError           [ValueError]           arguments that are wrong or contradict each other
    |-- DataError                    [ValueError]           a data set that is empty, unsized, or of the wrong kind
    |-- TaskError                    [RuntimeError]         a task that broke its contract (a loss that is no scalar)
    |-- CallbackError                [RuntimeError]         a callback raised; names the callback and the event
    |-- HardwareError                [RuntimeError]         devices, precision, process groups
    |-- CheckpointError              [RuntimeError]
    |   |-- CheckpointNotFoundError  [ValueError]           there is none to resume from
    |   |-- TornCheckpointError                             it was never committed, or no longer matches its manifest
    |   `-- UnsafeCheckpointError                           reading it could run code or leave its folder
    |-- NotAvailableError            [NotImplementedError]  documented, but not part of this version
    `-- PluginError
        |-- PluginNotFoundError                             nobody registered that name
        |-- PluginUnavailableError                          its requirements are not installed
        |-- PluginBrokenError                               importing it failed
        |-- PluginIncompatibleError                         written for another plugin interface
        `-- PluginCollisionError                            two distributions registered one name

    TrainingInterrupted              [SystemExit]           training stopped early, after the checkpoint was committed

``TrainingInterrupted`` stands apart on purpose: ``except Exception`` must not catch it, and an
uncaught one ends the process with its code.
"""

from __future__ import annotations


class HftrainError(Exception):
    """The base of every error hftrain raises on purpose."""


class ConfigurationError(HftrainError, ValueError):
    """Arguments are wrong, or contradict each other."""


class DataError(HftrainError, ValueError):
    """A data set or loader cannot be used as asked."""


class TaskError(HftrainError, RuntimeError):
    """A task broke its contract, for example with a loss that is not a scalar."""


class CallbackError(HftrainError, RuntimeError):
    """A callback raised; the message names the callback and the event, ``__cause__`` is what it raised."""


class HardwareError(HftrainError, RuntimeError):
    """A device, a precision or a process group cannot be had as asked."""


class CheckpointError(HftrainError, RuntimeError):
    """A checkpoint cannot be written or read."""


class CheckpointNotFoundError(CheckpointError, ValueError):
    """There is no checkpoint where one was asked for."""


class TornCheckpointError(CheckpointError):
    """A checkpoint was never committed, or no longer matches its manifest."""


class UnsafeCheckpointError(CheckpointError):
    """Reading a checkpoint could run code or touch files outside its folder."""


class NotAvailableError(HftrainError, NotImplementedError):
    """A documented feature that this version does not have."""


class PluginError(HftrainError):
    """A plugin cannot be used."""


class PluginNotFoundError(PluginError):
    """No distribution registered a plugin of that name."""


class PluginUnavailableError(PluginError):
    """A plugin's requirements are not installed."""


class PluginBrokenError(PluginError):
    """A plugin is installed, and importing it failed."""


class PluginIncompatibleError(PluginError):
    """A plugin was written for another version of the plugin interface."""


class PluginCollisionError(PluginError):
    """Two distributions registered one plugin name."""


class TrainingInterrupted(SystemExit):
    """Training stopped before its end: the checkpoint is committed and the trackers are closed.

    ``code`` is 128 + the signal's number (143 for SIGTERM, 130 for SIGINT, 138 for SIGUSR1), or 75
    when ``deadline_minutes`` ran out.
    """

    code: int

    def __init__(self, code: int) -> None:
        super().__init__(code)
