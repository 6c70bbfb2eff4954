from __future__ import annotations

from pathlib import Path

import pytest

from hftrain.plugin_api.requirements import Lack, lacks
from tests.plugin_api.distributions import install


def test_what_is_installed_and_new_enough_lacks_nothing(site: Path) -> None:
    install(site, "tool", version="2.1")
    assert lacks(["tool>=2", "tool"]) == ()


def test_a_package_that_is_half_removed_does_not_do(site: Path) -> None:
    install(site, "tool")
    (site / "tool-1.0.dist-info" / "METADATA").write_text("Name: tool")
    (lack,) = lacks(["tool>=2", "tool"])
    assert lack.text == "tool>=2 (a version that cannot be read is installed)"


def test_a_package_that_is_not_there_is_named(site: Path) -> None:
    assert lacks(["no-such-tool>=2"]) == (Lack(requirement="no-such-tool>=2"),)


def test_an_old_version_is_told_with_what_is_there(site: Path) -> None:
    install(site, "tool", version="1.9")
    (lack,) = lacks(["tool>=2"])
    assert lack.text == "tool>=2 (1.9 is installed)"


def test_a_pre_release_counts_as_its_version(site: Path) -> None:
    install(site, "tool", version="2.1rc1")
    assert lacks(["tool>=2"]) == ()


def test_a_requirement_of_another_system_is_none_here(site: Path) -> None:
    assert lacks(["no-such-tool; sys_platform == 'no-such-system'"]) == ()


def test_what_an_extra_needs_is_looked_at(site: Path) -> None:
    metadata = ["Provides-Extra: board", "Requires-Dist: no-such-board>=1; extra == 'board'"]
    install(site, "tool", metadata=metadata)
    assert lacks(["tool[board]"]) == (Lack(requirement="no-such-board>=1"),)


def test_what_another_extra_needs_is_not_asked_for(site: Path) -> None:
    metadata = ["Provides-Extra: board", "Provides-Extra: net", "Requires-Dist: no-such-net; extra == 'net'"]
    install(site, "tool", metadata=metadata)
    assert lacks(["tool[board]"]) == ()


def test_extras_that_name_each_other_come_to_an_end(site: Path) -> None:
    metadata = ["Provides-Extra: a", "Provides-Extra: b", "Requires-Dist: tool[b]; extra == 'a'"]
    metadata.append("Requires-Dist: tool[a]; extra == 'b'")
    install(site, "tool", metadata=metadata)
    assert lacks(["tool[a]"]) == ()


def test_a_folder_of_that_name_is_no_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_such_tool").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert lacks(["no_such_tool"])


def test_what_is_no_requirement_is_an_error_that_shows_it() -> None:
    with pytest.raises(ValueError, match="'wandb >> 1' is not a requirement"):
        lacks(["wandb >> 1"])
