"""Callbacks that other distributions bring, by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hftrain.callbacks.flow import DefaultFlowCallback
from hftrain.callbacks.handler import CallbackHandler
from hftrain.errors import (
    ConfigurationError,
    PluginBrokenError,
    PluginCollisionError,
    PluginError,
    PluginNotFoundError,
    PluginUnavailableError,
)
from hftrain.plugin_api.registry import registry
from tests.plugin_api.distributions import install
from tests.trainer.tasks import trainer

CALLBACK = """
from hftrain.plugin_api.callback import TrainerCallback

class Plugin(TrainerCallback):
    api, requires, extra = 1, (), ""
    num_steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.num_steps += 1
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the callback ``counts`` is installed, and others may be."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    put(folder, "counting", "counts")
    yield folder
    registry.cache_clear()
    for file in folder.glob("*.py"):
        sys.modules.pop(file.stem, None)


def put(site: Path, distribution: str, name: str, code: str = CALLBACK) -> None:
    install(site, f"{distribution}-of-a-test", plugins=[name], code=code, group="hftrain.callbacks")
    registry.cache_clear()


def handler() -> CallbackHandler:
    return CallbackHandler([DefaultFlowCallback()], None, None, None, None)


@pytest.mark.parametrize("name", ["counts", "counting-of-a-test:counts"])
def test_a_run_calls_the_callback_that_is_named(tmp_path: Path, site: Path, name: str) -> None:
    run = trainer(tmp_path / "out", callbacks=[name], max_steps=3)
    run.train()
    assert run.pop_callback("counts").num_steps == 3


def test_it_is_added_and_removed_by_name(site: Path) -> None:
    found = handler()
    found.add_callback("counts")
    assert found.callback_list.endswith("Plugin")
    found.remove_callback("counts")
    assert found.pop_callback("counts") is None


@pytest.mark.parametrize(
    ("code", "error", "text"),
    [
        ("import no_such_module_here", PluginBrokenError, "no_such_module_here"),
        (CALLBACK.replace("()", "('no-such-net',)"), PluginUnavailableError, 'pip install "no-such-net"'),
        (CALLBACK.replace("num_steps = 0", "__init__ = lambda self, needed: None"), ConfigurationError, "plugin 'odd'"),
        (CALLBACK.replace("(TrainerCallback)", ""), PluginBrokenError, "TrainerCallback"),
    ],
)
def test_one_that_cannot_be_used_is_refused_with_the_reason(
    site: Path, code: str, error: type[Exception], text: str
) -> None:
    put(site, "odd", "odd", code)
    with pytest.raises(error, match=text):
        handler().add_callback("odd")


def test_a_name_that_nobody_has_is_refused_with_the_closest(site: Path) -> None:
    with pytest.raises(PluginNotFoundError, match="no callback called 'count'; did you mean 'counts'"):
        handler().add_callback("count")


def test_a_name_that_two_have_is_refused_with_both(site: Path) -> None:
    put(site, "other", "counts")
    with pytest.raises(PluginCollisionError, match="'counting-of-a-test:counts' or 'other-of-a-test:counts'"):
        handler().add_callback("counts")


def test_a_broken_one_that_nobody_named_stops_nothing(tmp_path: Path, site: Path) -> None:
    put(site, "broken", "broken", "raise SystemError")
    trainer(tmp_path / "out", callbacks=["counts"], max_steps=1).train()


def test_removing_a_name_that_nobody_has_is_an_error_too(site: Path) -> None:
    with pytest.raises(PluginError, match="no callback called 'nobody_has_this'"):
        handler().pop_callback("nobody_has_this")
