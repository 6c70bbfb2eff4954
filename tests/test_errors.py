from __future__ import annotations

import inspect

import pytest

from hftrain import errors

CLASSES = [item for _, item in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("error", CLASSES)
def test_the_docstring_draws_every_class(error: type[BaseException]) -> None:
    assert errors.__doc__ is not None
    assert error.__name__ in errors.__doc__


@pytest.mark.parametrize("error", [error for error in CLASSES if error is not errors.TrainingInterrupted])
def test_every_error_is_caught_by_the_base(error: type[BaseException]) -> None:
    assert issubclass(error, errors.HftrainError)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ConfigurationError, ValueError),
        (errors.DataError, ValueError),
        (errors.TaskError, RuntimeError),
        (errors.CallbackError, RuntimeError),
        (errors.HardwareError, RuntimeError),
        (errors.CheckpointNotFoundError, ValueError),
        (errors.NotAvailableError, NotImplementedError),
    ],
)
def test_code_that_catches_the_builtin_keeps_working(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, builtin)


def test_an_interrupted_training_passes_except_exception_and_carries_its_code() -> None:
    assert not issubclass(errors.TrainingInterrupted, Exception)
    with pytest.raises(SystemExit) as caught:
        raise errors.TrainingInterrupted(143)
    assert caught.value.code == 143
