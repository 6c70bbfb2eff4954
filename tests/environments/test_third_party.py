"""Distributions of other people, installed beside ours: one that works, and one for each thing that can be wrong."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.environments.environment import Environment, build_wheel, make_environment
from tests.environments.links import ROOT

pytestmark = pytest.mark.slow

PROJECT = """
    [build-system]
    requires = ["hatchling"]
    build-backend = "hatchling.build"

    [project]
    name = "{name}"
    version = "{version}"
    {extras}

    [tool.hatch.build.targets.wheel]
    only-include = ["{module}.py"]
    """
TRACKER = """
    from hftrain.plugin_api.tracker import Tracker

    class Plugin(Tracker):
        api = 1
        requires = ()
        extra = ""
    """
NEEDS_NEWER = TRACKER.replace("()", '("old-client>=2",)').replace('extra = ""', 'extra = "client"')
DISTRIBUTIONS: dict[str, tuple[str | None, str]] = {
    "fails-on-import": ("fails", "import a_module_that_nobody_has"),
    "of-the-future": ("future", TRACKER.replace("api = 1", "api = 99")),
    "first-of-two": ("twice", TRACKER),
    "second-of-two": ("twice", TRACKER),
    "needs-newer": ("newer", NEEDS_NEWER),
    "no-tracker": ("other", "class Plugin:\n    api = 1\n"),
    "old-client": (None, ""),
}
"""Distribution -> (the name of its tracker, its module)."""


def wheel_of(name: str, folder: Path) -> Path:
    """Write a distribution and build its wheel."""
    tracker, code = DISTRIBUTIONS[name]
    module = name.replace("-", "_")
    extras = 'optional-dependencies.client = ["old-client>=2"]' if name == "needs-newer" else ""
    if tracker:
        extras += f'\n    entry-points."hftrain.trackers".{tracker} = "{module}:Plugin"'
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        dedent(PROJECT.format(name=name, version="1.5", module=module, extras=extras))
    )
    (folder / f"{module}.py").write_text(dedent(code))
    return build_wheel(folder, folder / "dist")


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory, hftrain_wheel: Path) -> Environment:
    """One environment with all of them: those that are broken must not disturb those that are not."""
    folder = tmp_path_factory.mktemp("crowded")
    wheels = [wheel_of(name, folder / name) for name in DISTRIBUTIONS]
    wheels.append(build_wheel(ROOT / "examples" / "third_party_tracker", folder / "csv"))
    return make_environment(folder / "venv", hftrain_wheel, *wheels)


TRAIN = """
import json, sys
import torch
from hftrain import Trainer, TrainingArguments


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x, labels=None):
        return {"loss": ((x @ self.weight - labels) ** 2).mean()}


rows = [{"x": torch.ones(2), "labels": torch.tensor(1.0)}] * 8
for report_to in sys.argv[1:]:
    args = TrainingArguments("out", report_to=report_to, max_steps=4, logging_steps=1, save_strategy="no", use_cpu=True)
    try:
        Trainer(Model(), args, train_dataset=rows).train()
    except Exception as error:
        print("!" + json.dumps([type(error).__name__, str(error), repr(error.__cause__)]))
"""


def test_the_example_reports_a_training(crowded: Environment, tmp_path: Path) -> None:
    done = crowded.run("python", "-W", "error", "-c", TRAIN, "csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("out/runs/*/metrics.csv")
    with open(path, newline="", encoding="utf-8") as file:
        losses = [int(step) for step, name, _ in csv.reader(file) if name == "train/loss"]
    assert losses == [1, 2, 3, 4]
    assert "a_module_that_nobody_has" not in done.stderr


def test_all_leaves_aside_what_cannot_be_used(crowded: Environment, tmp_path: Path) -> None:
    done = crowded.run("python", "-W", "error", "-c", TRAIN, "all", cwd=tmp_path)
    assert "!" not in done.stdout
    assert list(tmp_path.glob("out/runs/*/metrics.csv"))
    assert re.search(r"not to .*fails \(PluginBrokenError", done.stderr)


@pytest.fixture(scope="module")
def rows(crowded: Environment) -> dict[str, dict[str, Any]]:
    """What ``hftrain plugins --check --json`` says of each distribution's plugin."""
    done = crowded.run("hftrain", "plugins", "--check", "--json")
    assert done.returncode == 1
    return {row["distribution"]: row for row in json.loads(done.stdout)["plugins"] if row["distribution"] != "hftrain"}


@pytest.mark.parametrize(
    ("distribution", "status", "fix", "detail"),
    [
        ("hftrain-csv-tracker", "ready", "", "^$"),
        ("fails-on-import", "broken", "pip install -U fails-on-import", "No module named 'a_module_that_nobody_has'"),
        ("of-the-future", "incompatible", "pip install -U hftrain", "version 99 .* this hftrain has version 1"),
        ("first-of-two", "collision", "write 'first-of-two:twice', or uninstall one of them", "second-of-two"),
        ("second-of-two", "collision", "write 'second-of-two:twice', or uninstall one of them", "first-of-two"),
        ("needs-newer", "outdated", 'pip install "needs-newer[client]"', r"old-client>=2 \(1\.5 is installed\)"),
        ("no-tracker", "broken", "pip install -U no-tracker", r"must subclass hftrain\.plugin_api\.tracker\.Tracker"),
    ],
)
def test_each_has_its_true_status(
    rows: dict[str, dict[str, Any]], distribution: str, status: str, fix: str, detail: str
) -> None:
    row = rows[distribution]
    assert (row["status"], row["fix"]) == (status, fix)
    assert re.search(detail, row["detail"])


def test_without_a_check_none_is_imported_and_nothing_fails(crowded: Environment) -> None:
    done = crowded.run("hftrain", "plugins")
    assert (done.returncode, done.stderr) == (0, "")
    assert "collision" in done.stdout


NAMED = {
    "fails": ("PluginBrokenError", "'fails' of fails-on-import 1.5 cannot be imported: ModuleNotFoundError"),
    "future": ("PluginIncompatibleError", "version 99 of the plugin interface; this hftrain has version 1"),
    "twice": ("PluginCollisionError", "Name the one you mean: 'first-of-two:twice' or 'second-of-two:twice'"),
    "newer": ("PluginUnavailableError", 'old-client>=2 (1.5 is installed). Run: pip install "needs-newer[client]"'),
    "other": ("PluginBrokenError", "must subclass hftrain.plugin_api.tracker.Tracker"),
    "cvs": ("PluginNotFoundError", "no tracker called 'cvs'; did you mean 'csv'?"),
}


def test_naming_each_in_report_to_says_what_to_do(crowded: Environment, tmp_path: Path) -> None:
    done = crowded.run("python", "-W", "error", "-c", TRAIN, *NAMED, cwd=tmp_path)
    errors = [json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith("!")]
    assert [kind for kind, _, _ in errors] == [kind for kind, _ in NAMED.values()]
    for (_, text, _), (_, expected) in zip(errors, NAMED.values(), strict=True):
        assert expected in text
    assert "a_module_that_nobody_has" in errors[0][2]


def test_the_distribution_before_a_colon_settles_a_collision(crowded: Environment, tmp_path: Path) -> None:
    done = crowded.run("python", "-W", "error", "-c", TRAIN, "first-of-two:twice", cwd=tmp_path)
    assert (done.returncode, "!" in done.stdout) == (0, False), done.stdout
