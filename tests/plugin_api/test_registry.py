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
from hftrain.plugin_api.registry import Kind, Registry, registry
from hftrain.plugin_api.reports import Report, Status
from tests.plugin_api.distributions import PLUGIN, install


def status_of(name: str) -> Status:
    return next(one.status for one in Registry().reports(check=True) if one.registered.name == name)


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


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("Plugin = 3", "some_tool:Plugin is 3, no class"),
        ("class Plugin:\n    api = 1\n", "must subclass hftrain.plugin_api.tracker.Tracker"),
        (PLUGIN.replace("api = 1", ""), "does not say which version .* set api = 1"),
        (PLUGIN.replace("()", "'no-such-net'"), "requires = 'no-such-net': set a tuple"),
        (PLUGIN.replace("()", "('>>',)"), "'>>' is not a requirement"),
        (PLUGIN.replace('""', "None"), "has no extra"),
    ],
)
def test_what_is_no_plugin_says_what_it_lacks(site: Path, code: str, text: str) -> None:
    install(site, "some-tool", plugins=["some"], code=code)
    with pytest.raises(PluginBrokenError, match=text):
        Registry().load(Kind.TRACKER, "some")


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (Kind.SEARCH, "hftrain.plugin_api.search.SearchBackend"),
        (Kind.HUB, "hftrain.plugin_api.hub.HubPublisher"),
        (Kind.CALLBACK, "hftrain.types.callback.TrainerCallback"),
    ],
)
def test_a_plugin_of_another_kind_is_told_what_it_must_be(site: Path, kind: Kind, base: str) -> None:
    install(site, "some-tool", plugins=["some"], code=PLUGIN, group=kind.group)
    with pytest.raises(PluginBrokenError, match=f"must subclass {base}"):
        Registry().load(kind, "some")


def test_a_module_that_ends_the_process_is_broken(site: Path) -> None:
    install(site, "some-tool", plugins=["some"], code="raise SystemExit(3)")
    with pytest.raises(PluginBrokenError, match="SystemExit: 3"):
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
        (PLUGIN.replace("api = 1", "api = 2"), Status.INCOMPATIBLE),
        ("class Plugin:\n    api = 2\n", Status.INCOMPATIBLE),
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


def report_of(name: str, *, check: bool = True) -> Report:
    return next(one for one in Registry().reports(check=check) if one.registered.name == name)


def test_what_the_extra_needs_is_listed_without_an_import(site: Path) -> None:
    metadata = ["Provides-Extra: some", "Requires-Dist: packaging>=1; extra == 'some'"]
    install(site, "some-tool", plugins=["some"], code="raise AssertionError('not asked')", metadata=metadata)
    report = report_of("some", check=False)
    assert (report.status, report.extra, report.requires) == (Status.READY, "some", ("packaging>=1",))


@pytest.mark.parametrize(("api", "dist"), [(2, "hftrain"), (1, "some-tool")])
def test_the_older_side_is_the_one_to_update(site: Path, monkeypatch: pytest.MonkeyPatch, api: int, dist: str) -> None:
    monkeypatch.setattr("hftrain.plugin_api.registry.API", 3 - api)
    install(site, "some-tool", plugins=["some"], code=PLUGIN.replace("api = 1", f"api = {api}"))
    report = report_of("some")
    assert (report.status, report.api, report.fix) == (Status.INCOMPATIBLE, api, f"pip install -U {dist}")


def test_the_distribution_before_a_colon_may_be_spelled_in_any_way(site: Path) -> None:
    install(site, "Some.Tool", plugins=["same = some_tool:Plugin"])
    install(site, "tool-b", plugins=["same"])
    assert {Registry().find(Kind.TRACKER, f"{name}:same").distribution for name in ("some-tool", "SOME_TOOL")} == {
        "Some.Tool"
    }


def test_a_name_of_another_distribution_is_given_in_full(site: Path) -> None:
    install(site, "tool-a", plugins=["same"], code=PLUGIN)
    with pytest.raises(PluginNotFoundError, match="no tracker called 'tool-b:same'; did you mean 'tool-a:same'"):
        Registry().find(Kind.TRACKER, "tool-b:same")


def test_an_editable_install_that_is_listed_twice_is_one(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "src").mkdir()
    install(site / "src", "some-tool", version="1.1", plugins=["some", "new"])
    install(site, "some_tool", version="1.0", plugins=["some"])
    monkeypatch.syspath_prepend(site / "src")
    monkeypatch.syspath_prepend(site / "src")
    assert Registry().find(Kind.TRACKER, "some").version == "1.1"
    assert [one.name for one in Registry().all() if one.distribution in ("some-tool", "some_tool")] == ["new", "some"]


def test_a_distribution_hides_an_older_one_behind_it(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "first").mkdir()
    install(site, "some-tool", version="1.0", plugins=["some"])
    install(site / "first", "some-tool", version="2.0")  # it has no plugin any more
    monkeypatch.syspath_prepend(site / "first")
    assert "some" not in Registry().names(Kind.TRACKER)


def test_two_of_one_name_in_one_distribution_are_its_authors_mistake(site: Path) -> None:
    install(site, "some-tool", plugins=["same", "same", "same = some_tool:Other"], code=PLUGIN)
    with pytest.raises(PluginCollisionError, match="registers two trackers called 'same': some_tool:Plugin and"):
        Registry().load(Kind.TRACKER, "same")


@pytest.mark.parametrize("broken", ["[hftrain.trackers]\nno equals sign\n", "[hftrain.trackers]\nx = y\n"])
def test_a_folder_that_cannot_be_read_takes_no_other_plugin_away(
    site: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    install(site, "good-tool", plugins=["good"], code=PLUGIN)
    install(site, "torn-tool")
    (site / "torn_tool-1.0.dist-info" / "entry_points.txt").write_text(broken)
    (site / "torn_tool-1.0.dist-info" / "METADATA").write_text("")
    assert Registry().find(Kind.TRACKER, "good").distribution == "good-tool"
    assert "cannot be read" in caplog.text


def test_what_is_installed_is_looked_for_once_in_a_process() -> None:
    assert registry() is registry()


@pytest.mark.parametrize(("report_to", "num_scans"), [("none", 0), ("local", 0), ("all", 1)])
def test_arguments_look_for_plugins_only_where_all_are_meant(report_to: str, num_scans: int) -> None:
    code = (
        "import sys; from hftrain import TrainingArguments; from hftrain.plugin_api.registry import registry; "
        "TrainingArguments('out', report_to=sys.argv[1]); print(registry.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", code, report_to], check=True, capture_output=True, text=True)
    assert int(done.stdout) == num_scans


def test_the_registry_imports_no_torch() -> None:
    code = "import sys, hftrain.plugin_api.registry as r; r.registry(); assert not {'torch', 'numpy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
