from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hftrain.errors import (
    PluginBrokenError,
    PluginCollisionError,
    PluginIncompatibleError,
    PluginNotFoundError,
    PluginUnavailableError,
)
from hftrain.plugin_api.registry import Kind, Registry, Status
from tests.plugin_api.distributions import PLUGIN, install


def status_of(name: str, *, check: bool = True) -> Status:
    return next(one.status for one in Registry().reports(check=check) if one.registered.name == name)


def test_a_named_plugin_is_imported_and_no_other(site: Path) -> None:
    install(site, "first-tool", plugins=["first"], code=PLUGIN)
    install(site, "second-tool", plugins=["second"], code="raise AssertionError('nobody named it')")
    assert Registry().load(Kind.TRACKER, "first").__name__ == "Plugin"
    assert "second_tool" not in sys.modules


def test_looking_for_plugins_imports_none(site: Path) -> None:
    install(site, "some-tool", plugins=["some"], code="raise AssertionError('nobody named it')")
    assert "some" in Registry().names(Kind.TRACKER)


def test_a_name_belongs_to_its_kind(site: Path) -> None:
    install(site, "some-tool", plugins=["some"], code=PLUGIN, group="hftrain.hub")
    with pytest.raises(PluginNotFoundError, match="no tracker called 'some'"):
        Registry().find(Kind.TRACKER, "some")


def test_a_name_that_nobody_has_shows_the_closest(site: Path) -> None:
    install(site, "some-tool", plugins=["tensorbord_like"], code=PLUGIN)
    with pytest.raises(PluginNotFoundError, match="did you mean 'tensorbord_like'"):
        Registry().find(Kind.TRACKER, "tensorboard_like")


def test_the_closest_name_comes_with_the_extra_that_installs_it(site: Path) -> None:
    install(site, "some-tool", plugins=["net_log"], code=PLUGIN, metadata=["Provides-Extra: netlog"])
    with pytest.raises(PluginNotFoundError, match=r'pip install "some-tool\[netlog\]"'):
        Registry().find(Kind.TRACKER, "netlog")


def test_two_distributions_of_one_name_are_both_named(site: Path) -> None:
    install(site, "tool-a", plugins=["same"], code=PLUGIN)
    install(site, "tool-b", plugins=["same"], code=PLUGIN)
    with pytest.raises(PluginCollisionError, match="'tool-a:same' or 'tool-b:same'"):
        Registry().load(Kind.TRACKER, "same")


def test_the_distribution_before_a_colon_picks_one(site: Path) -> None:
    install(site, "tool-a", plugins=["same"], code=PLUGIN)
    install(site, "tool-b", plugins=["same"], code=PLUGIN)
    assert Registry().load(Kind.TRACKER, "tool-b:same").__module__ == "tool_b"


def test_a_plugin_that_fails_on_import_is_named_with_its_cause(site: Path) -> None:
    install(site, "some-tool", version="3.1", plugins=["some"], code="1 / 0")
    with pytest.raises(PluginBrokenError, match=r"'some' of some-tool 3\.1 cannot be imported") as caught:
        Registry().load(Kind.TRACKER, "some")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_what_is_no_plugin_class_is_broken(site: Path) -> None:
    install(site, "some-tool", plugins=["some"], code="class Plugin:\n    api = 1\n")
    with pytest.raises(PluginBrokenError, match="a class without requires, extra"):
        Registry().load(Kind.TRACKER, "some")


def test_a_plugin_for_another_interface_says_what_to_update(site: Path) -> None:
    install(site, "some-tool", plugins=["some"], code=PLUGIN.replace("api = 1", "api = 2"))
    with pytest.raises(PluginIncompatibleError, match="version 2 of the plugin interface.*Update hftrain"):
        Registry().load(Kind.TRACKER, "some")


def test_a_missing_requirement_comes_with_the_command(site: Path) -> None:
    code = PLUGIN.replace("()", "('no-such-net>=2',)").replace('extra = ""', 'extra = "net"')
    install(site, "some-tool", plugins=["some"], code=code, metadata=["Provides-Extra: net"])
    with pytest.raises(PluginUnavailableError, match=r'no-such-net>=2 \(not installed\).*"some-tool\[net\]"'):
        Registry().load(Kind.TRACKER, "some")


def test_without_an_extra_the_command_names_the_requirements(site: Path) -> None:
    install(site, "some-tool", plugins=["some"], code=PLUGIN.replace("()", "('no-such-net>=2',)"))
    with pytest.raises(PluginUnavailableError, match='pip install "no-such-net>=2"'):
        Registry().load(Kind.TRACKER, "some")


def test_an_empty_list_keeps_external_plugins_out(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "some-tool", plugins=["some"], code=PLUGIN)
    monkeypatch.setenv("HFTRAIN_PLUGINS", "")
    with pytest.raises(PluginNotFoundError, match="disabled by HFTRAIN_PLUGINS=''"):
        Registry().find(Kind.TRACKER, "some")
    assert status_of("some") is Status.DISABLED


def test_a_list_lets_in_those_it_names(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "tool-a", plugins=["same"], code=PLUGIN)
    install(site, "tool-b", plugins=["same"], code=PLUGIN)
    monkeypatch.setenv("HFTRAIN_PLUGINS", "Tool_B, another")
    assert Registry().find(Kind.TRACKER, "same").distribution == "tool-b"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (PLUGIN, Status.READY),
        (PLUGIN.replace("()", "('no-such-net',)"), Status.MISSING),
        (PLUGIN.replace("()", "('packaging>=999',)"), Status.OUTDATED),
        (PLUGIN.replace("()", "('>>',)"), Status.BROKEN),
        ("1 / 0", Status.BROKEN),
        (PLUGIN.replace("api = 1", "api = 0"), Status.INCOMPATIBLE),
    ],
)
def test_a_checked_plugin_has_its_true_status(site: Path, code: str, status: Status) -> None:
    install(site, "some-tool", plugins=["some"], code=code)
    assert status_of("some") is status


def test_two_of_one_name_are_a_collision(site: Path) -> None:
    install(site, "tool-a", plugins=["same"])
    install(site, "tool-b", plugins=["same"])
    assert status_of("same") is Status.COLLISION


def test_without_a_check_the_extra_of_its_name_tells(site: Path) -> None:
    metadata = ["Provides-Extra: some", "Requires-Dist: no-such-net>=2; extra == 'some'"]
    install(site, "some-tool", plugins=["so_me"], code="raise AssertionError('not asked')", metadata=metadata)
    (report,) = (one for one in Registry().reports() if one.registered.name == "so_me")
    assert (report.status, report.fix) == (Status.MISSING, 'pip install "some-tool[some]"')


def test_the_registry_imports_no_torch() -> None:
    code = "import sys, hftrain.plugin_api.registry as r; r.registry(); assert not {'torch', 'numpy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
