"""What every kind of plugin must keep to."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import packages_distributions
from typing import Any
from unittest.mock import patch

from hftrain.plugin_api.registry import API, Kind, registry, wrong_of_class
from hftrain.plugin_api.requirements import lacks

PLANTED = "planted-secret-0f3a9c"
"""The value of a secret that the checks put where a plugin can see it, and must write it nowhere."""


class ContractError(AssertionError):
    """What a plugin does not keep to."""


def check_class(kind: Kind, plugin: type[Any]) -> None:
    """Check what can be told of a class before it is used."""
    wrong = wrong_of_class(kind, plugin)
    if wrong:
        raise ContractError(f"{plugin!r} {wrong}.")
    if plugin.api != API:
        raise ContractError(f"api is {plugin.api!r}; this version of the interface is {API}.")
    missing = lacks(plugin.requires)
    if missing:
        raise ContractError(f"Install what it requires: {', '.join(lack.text for lack in missing)}.")
    _check_extra(kind, plugin)
    try:
        plugin()
    except TypeError as error:
        raise ContractError(f"It cannot be made without arguments: {error}.") from error


def check_availability(plugin: Any) -> None:
    """Check that a plugin says why it cannot start, or nothing, without asking anybody."""
    with without_network("unavailable_because()"):
        reason = plugin.unavailable_because()
    if not isinstance(reason, str | None):
        raise ContractError(f"unavailable_because() returned {reason!r}: a text, or None.")
    if reason is not None:
        raise ContractError(f"unavailable_because() says {reason!r}: set what it needs before it is checked.")


@contextmanager
def without_network(what: str) -> Iterator[None]:
    """Refuse connections and look-ups; the error names what tried."""
    tried = []

    def refuse(*args: Any, **kwargs: Any) -> Any:
        tried.append(args)
        raise OSError("no network is allowed here")

    with patch.object(socket, "getaddrinfo", refuse), patch.object(socket.socket, "connect", refuse):
        yield
    if tried:
        raise ContractError(f"{what} uses the network.")


@contextmanager
def leaving_the_process_alone() -> Iterator[None]:
    """Check that what belongs to the training is as it was: folder, signals, random numbers, and the way out."""
    before = {name: look() for name, look in _OF_THE_PROCESS.items()}
    threads = set(threading.enumerate())
    yield
    for name, look in _OF_THE_PROCESS.items():
        if before[name] is not None and look() != before[name]:
            raise ContractError(f"It changed {name}.")
    left = [one.name for one in set(threading.enumerate()) - threads if not one.daemon and one.is_alive()]
    if left:
        raise ContractError(f"It left threads running that keep Python from ending: {', '.join(left)}.")


@contextmanager
def planted_secret() -> Iterator[None]:
    """Put a secret into the environment, as a cluster's start script does."""
    with patch.dict(os.environ, {"HFTRAIN_CHECK_API_KEY": PLANTED}):
        yield


def check_no_secret(folder: str) -> None:
    """Check that no file below a folder holds the planted secret."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if not os.path.isfile(path):  # a pipe would keep us waiting
                continue
            with open(path, "rb") as file:
                if PLANTED.encode() in file.read():
                    raise ContractError(f"It wrote a secret into {path}.")


def _numpy_state() -> Any:
    numpy = sys.modules.get("numpy")
    return (
        None
        if numpy is None
        else [str(part.tolist() if hasattr(part, "tolist") else part) for part in numpy.random.get_state()]
    )


_OF_THE_PROCESS: dict[str, Callable[[], Any]] = {
    "the working directory": os.getcwd,
    "what SIGTERM does, which saves a checkpoint": lambda: signal.getsignal(signal.SIGTERM),
    "what SIGINT does, which saves a checkpoint": lambda: signal.getsignal(signal.SIGINT),
    "Python's random numbers, so that a resumed run is no longer the same": random.getstate,
    "numpy's random numbers, so that a resumed run is no longer the same": _numpy_state,
}


def _check_extra(kind: Kind, plugin: type[Any]) -> None:
    """The extra that the class names must be one of its distribution, where that is installed."""
    value = f"{plugin.__module__}:{plugin.__qualname__}"
    for registered in registry().all(kind):
        if registered.entry_point.value == value and plugin.extra and not registered.has_extra(plugin.extra):
            known = ", ".join(registered.extras) or "none"
            raise ContractError(f"extra = {plugin.extra!r} is no extra of {registered.distribution}; it has {known}.")


_FOREIGN = """
import importlib, sys
import hftrain.plugin_api.registry
before = set(sys.modules)
importlib.import_module({module!r})
new = set(sys.modules) - before
tops = {{name.partition(".")[0] for name in new}} - set(sys.stdlib_module_names) - {own!r} - {{"hftrain"}}
ours = {{name for name in new if name.startswith("hftrain.") and not name.startswith("hftrain.plugin_api")}}
print(", ".join(sorted(tops | ours)))
"""


def check_module(plugin: type[Any]) -> None:
    """Check, in a new process, that the class's module can be imported where nothing that it requires is installed."""
    top = plugin.__module__.partition(".")[0]
    packages = packages_distributions()
    distributions = set(packages.get(top, ()))
    own = {top, *(package for package, names in packages.items() if distributions & set(names))}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    code = _FOREIGN.format(module=plugin.__module__, own=own)
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise ContractError(f"{plugin.__module__} cannot be imported: {done.stderr.strip().splitlines()[-1]}.")
    if done.stdout.strip():
        raise ContractError(
            f"{plugin.__module__} imports {done.stdout.strip()} at its top: import it in the method that needs it; of "
            "hftrain, a plugin sees hftrain.plugin_api only."
        )
